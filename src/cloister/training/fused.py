"""The same forward and backward as peft's and transformers', in fewer passes over memory.

A LoRA layer becomes one autograd step that computes in the activations' type while its parameters stay
in float32; attention becomes ours (`attention`). Knows no recipe, no data and no file; a layer that it does
not recognise keeps the forward it came with.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cloister.training.attention import use_attention


def fuse(model: nn.Module) -> int:
    """Give every plain LoRA layer the fused forward, and the model our attention.

    Left alone: DoRA and other variants, merged layers, several adapters at once, layers that are not linear.
    Returns the number of layers changed. Calling it twice changes nothing more.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and _is_plain(module):
            module.forward = _LoraForward(module)
            changed += 1
    use_attention(model)
    return changed


def dense_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight of a linear layer as a plain matrix [out, in]: dequantised where it is kept in NF4.

    In training mode `Linear4bit` computes the same numbers. Its own forward is never called: in evaluation
    mode it repacks the weight for good on some CPUs, and no gradient flows through it afterwards.
    """
    weight = cast(Tensor, layer.weight)
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return cast(Tensor, dequantize_4bit(weight.data, state)).to(dtype)


def _is_plain(layer: LoraLayer) -> bool:
    base = layer.get_base_layer()
    return (
        not layer.merged
        and not getattr(layer, "lora_variant", None)
        and len(layer.active_adapters) == 1
        and layer.active_adapters[0] in layer.lora_A
        and isinstance(base, nn.Linear)
        and layer.lora_A[layer.active_adapters[0]].bias is None
        and layer.lora_B[layer.active_adapters[0]].bias is None
    )


class _LoraForward:
    """The fused forward of one layer; holds the layer, not its weights, so that loading keeps working."""

    def __init__(self, layer: Any) -> None:
        name = layer.active_adapters[0]
        self.layer = layer
        self.base = layer.get_base_layer()
        self.a = layer.lora_A[name]
        self.b = layer.lora_B[name]
        self.scale = float(layer.scaling[name])
        drop = layer.lora_dropout[name]
        self.dropout = float(drop.p) if isinstance(drop, nn.Dropout) else 0.0

    def __call__(self, x: Tensor) -> Tensor:
        bias = self.base.bias
        if self.layer.disable_adapters or self.layer.merged:
            return F.linear(x, dense_weight(self.base, x.dtype), bias)
        if self.dropout and self.layer.training:
            low = F.linear(F.dropout(x, self.dropout), self.a.weight.to(x.dtype))
            y = _frozen_linear(x, self.base)
            return y + F.linear(low, self.b.weight.to(x.dtype)) * self.scale
        return cast(
            Tensor,
            _Lora.apply(  # type: ignore[no-untyped-call]
                x, self.base, self.a.weight, self.b.weight, self.scale
            ),
        )


def _frozen_linear(x: Tensor, base: nn.Module) -> Tensor:
    return F.linear(x, dense_weight(base, x.dtype), cast("Tensor | None", base.bias))


class _Lora(torch.autograd.Function):
    """y = x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ with W frozen; x [..., in], A [rank, in], B [out, rank]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Module, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = rows @ a.t()
        y = F.linear(rows, dense_weight(base, x.dtype), cast("Tensor | None", base.bias))
        y.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(rows, a, b, low)
        ctx.base, ctx.scale = base, scale
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, a, b, low = ctx.saved_tensors
        up = grad.reshape(-1, grad.shape[-1])
        back = (up @ b).mul_(ctx.scale)
        grad_a = (back.t() @ rows).float()
        grad_b = (low.t() @ up).t().float().mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = up @ dense_weight(ctx.base, up.dtype)
            grad_x.addmm_(back, a)
            grad_x = grad_x.view(*grad.shape[:-1], a.shape[1])
        return grad_x, None, grad_a, grad_b, None
