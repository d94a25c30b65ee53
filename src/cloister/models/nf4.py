"""NF4 with double quantisation, as QLoRA has it: what a weight becomes when it is stored in 4 bits.

Knows single weights and linear layers; not models, files or adapters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    import bitsandbytes.nn

BLOCK = 64
"""Weights that share one scale; 256 scales share a second one (QLoRA, arXiv 2305.14314, section 3)."""

_PIECE = 1 << 19


def round_trip(weight: torch.Tensor) -> torch.Tensor:
    """`weight` quantised to NF4 and back, in its own dtype and on its own device.

    What `bitsandbytes.nn.Linear4bit` multiplies by in training mode, bit for bit, so a plain
    `nn.Linear` that holds it *is* the quantised layer, at 16 bits of memory instead of 4.13 and
    without the kernels that on a CPU take half the time.
    """
    from bitsandbytes import functional

    quantised, state = _quantise(weight.contiguous())
    result: torch.Tensor = functional.dequantize_4bit(quantised, state)
    return result


def _quantise(weight: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """(4-bit weights, their `QuantState`), as bitsandbytes quantises.

    On a CPU its kernel takes some sixteen bytes a weight on the way. Blocks do not depend on one another,
    so a large weight goes through it piece by piece; only the scales of all are quantised together.
    """
    from bitsandbytes import functional

    if weight.device.type != "cpu" or weight.numel() <= _PIECE:
        whole: tuple[torch.Tensor, Any] = functional.quantize_4bit(
            weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        return whole
    pieces = [
        functional.quantize_4bit(piece, blocksize=BLOCK, compress_statistics=False, quant_type="nf4")
        for piece in torch.split(weight.reshape(-1), _PIECE)
    ]
    scales = torch.cat([state.absmax for _, state in pieces])
    offset = scales.mean()
    codes, second = functional.quantize_blockwise(scales - offset, blocksize=256)
    state = functional.QuantState(
        absmax=codes,
        shape=weight.shape,
        dtype=weight.dtype,
        blocksize=BLOCK,
        code=pieces[0][1].code,
        quant_type="nf4",
        offset=offset,
        state2=second,
    )
    return torch.cat([quantised for quantised, _ in pieces]), state


def quantised_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, device: torch.device
) -> bitsandbytes.nn.Linear4bit:
    """A real 4-bit layer on `device`, bf16 compute. `weight` is (out_features, in_features).

    The trap that `support_avx512bf16_for_cpu = False` disarms: on a CPU with AVX512-BF16 one forward in
    `.eval()` mode whose input needs no gradient repacks the weight for good. From then on no gradient
    flows through the layer while the loss still falls, scales are rounded to bf16, and an output size
    that is no multiple of 32 asserts. A hold-out loss in the middle of training is enough.
    """
    import bitsandbytes.nn

    out_features, in_features = weight.shape
    with torch.device("meta"):
        layer = bitsandbytes.nn.Linear4bit(
            in_features,
            out_features,
            bias=bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            quant_storage=torch.bfloat16,
        )
    layer.support_avx512bf16_for_cpu = False
    layer.weight = bitsandbytes.nn.Params4bit(
        weight.detach().to(torch.bfloat16),
        requires_grad=False,
        blocksize=BLOCK,
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=torch.bfloat16,
        module=layer,
    ).to(device)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(device, torch.bfloat16), requires_grad=False)
    return layer


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that QLoRA quantises and adapts: every `nn.Linear` but the output head, by name."""
    embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not embeddings and not name.endswith("lm_head")
    }
