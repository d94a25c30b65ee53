"""The same forward and backward as peft's and transformers', in fewer passes over memory.

A LoRA layer becomes one autograd step (`lora`), on a CPU together with those that read the same activations
(`beside`); norms, rotary positions and attention become ours (`norm`, `rotary`, `attention`). Knows no recipe, no
data and no file; a layer that it does not recognise keeps the forward it came with.
"""

from __future__ import annotations

from peft.tuners.lora import LoraLayer
from torch import nn

from cloister.training.attention import use_attention
from cloister.training.beside import join
from cloister.training.lora import LoraForward, is_plain
from cloister.training.norm import fuse_norm
from cloister.training.rotary import use_rotary

SIDE_BY_SIDE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read the same activations, in the decoders of transformers."""


def fuse(model: nn.Module) -> int:
    """Give every plain LoRA layer the fused forward, and the model our norms, rotary positions and attention.

    Left alone: DoRA and other variants, merged layers, several adapters at once, layers that are not linear.
    Returns the number of LoRA layers with it. Calling it twice changes nothing more.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and is_plain(module):
            if not isinstance(module.forward, LoraForward):
                module.forward = LoraForward(module)
            changed += 1
        else:
            fuse_norm(module)
    for module in model.modules():
        for names in SIDE_BY_SIDE:
            forwards = [getattr(getattr(module, name, None), "forward", None) for name in names]
            join([each for each in forwards if isinstance(each, LoraForward)])
    use_rotary(model)
    use_attention(model)
    return changed
