"""One LoRA layer as one autograd step that computes in the activations' type; its parameters stay in float32.

Knows one layer and those that read the same activations (`beside`); no model and no recipe.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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


def is_plain(layer: LoraLayer) -> bool:
    """Whether it is a linear layer with one adapter, and neither merged, DoRA nor another variant."""
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


class Beside(Protocol):
    """Layers that are computed together because they read the same activations."""

    def __call__(self, layer: LoraForward, x: Tensor) -> Tensor: ...


class LoraForward:
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
        self.beside: Beside | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Activations [..., in] to [..., out]."""
        if self.layer.disable_adapters or self.layer.merged:
            return self._frozen(x)
        if self.dropout and self.layer.training:
            low = F.linear(F.dropout(x, self.dropout), self.a.weight.to(x.dtype))
            return self._frozen(x) + F.linear(low, self.b.weight.to(x.dtype)) * self.scale
        if self.beside is not None:
            return self.beside(self, x)
        return cast(
            Tensor,
            _Lora.apply(  # type: ignore[no-untyped-call]
                x, self.base, self.a.weight, self.b.weight, self.scale
            ),
        )

    def _frozen(self, x: Tensor) -> Tensor:
        return F.linear(x, dense_weight(self.base, x.dtype), self.base.bias)


def added(parameter: Tensor, grad: Tensor, scale: float = 1.0) -> Tensor | None:
    """`grad`, in the activations' type, times `scale`: added where the parameter has a gradient already, which is one
    operation instead of three; else, or where a hook is to see it, returned in the parameter's type for autograd."""
    if parameter.grad is None or parameter._backward_hooks:
        return grad.to(parameter.dtype).mul_(scale)
    parameter.grad.add_(grad, alpha=scale)
    return None


class _Lora(torch.autograd.Function):
    """y = x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ with W frozen; x [..., in], A [rank, in], B [out, rank]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Module, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.a, ctx.b = a, b
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
        grad_a = added(ctx.a, back.t() @ rows)
        grad_b = added(ctx.b, (low.t() @ up).t(), ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = up @ dense_weight(ctx.base, up.dtype)
            grad_x.addmm_(back, a)
            grad_x = grad_x.view(*grad.shape[:-1], a.shape[1])
        return grad_x, None, grad_a, grad_b, None
