"""Rotary position embedding as one autograd step: transformers' numbers to the bit, in fewer passes over memory.

transformers calls a function of each architecture's module, so that is where ours takes its place; only where theirs
is Llama's, to the byte. Knows nothing of attention.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.llama import modeling_llama

_APPLY, _ROTATE = "apply_rotary_pos_emb", "rotate_half"
_LLAMA = tuple(getattr(modeling_llama, name).__code__.co_code for name in (_APPLY, _ROTATE))


def use_rotary(model: nn.Module) -> bool:
    """Give the architecture of a model's layers our function; whether it has it now."""
    modules = [sys.modules[name] for name in {type(layer).__module__ for layer in model.modules()}]
    for module in modules:
        theirs = [getattr(getattr(module, name, None), "__code__", None) for name in (_APPLY, _ROTATE)]
        if tuple(getattr(code, "co_code", None) for code in theirs) == _LLAMA:
            setattr(module, _APPLY, _apply)
    return any(getattr(module, _APPLY, None) is _apply for module in modules)


def _apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Query and key [rows, heads, length, width], cos and sin [rows or 1, length, width]."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), _signed(sin).unsqueeze(unsqueeze_dim)
    turned = (cast(Tensor, _Rotary.apply(each, cos, sin)) for each in (q, k))  # type: ignore[no-untyped-call]
    return next(turned), next(turned)


class _Signed:
    """A sine whose first half is negative; made once for all layers, which are handed the same one."""

    def __init__(self) -> None:
        self._made: tuple[Tensor, Tensor] | None = None

    def __call__(self, sin: Tensor) -> Tensor:
        made = self._made
        if made is None or made[0] is not sin:
            first, second = sin.chunk(2, -1)
            made = self._made = (sin, torch.cat((-first, second), -1))
        return made[1]


_signed = _Signed()


class _Rotary(torch.autograd.Function):
    """x·cos + (x₂, x₁)·sin, x₁ and x₂ the halves of x; cos and sin, negative in its first half, are constants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _swapped(x).mul_(sin).add_(x * cos)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _swapped(grad * sin).add_(grad * cos), None, None


def _swapped(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((second, first), -1)
