"""LoRA layers that read the same activations, computed together: query, key and value; gate and up.

On a CPU a product costs as much for preparing as for computing where the model is small, and the thin ones of an
adapter as much as the wide ones: one wide product stands for several. The layers are still called one by one; the
first of them computes for all. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cloister.training.lora import LoraForward, added, dense_weight


def join(layers: Sequence[LoraForward]) -> bool:
    """Have them computed together from now on, their frozen weights parts of one matrix; whether they are now.

    Left alone: layers elsewhere than on a CPU, with dropout, or that do not fit one another.
    """
    if len(layers) < 2 or any(layer.dropout or layer.base.weight.device.type != "cpu" for layer in layers):
        return False
    if len({(layer.base.in_features, layer.base.bias is None, layer.a.weight.dtype) for layer in layers}) > 1:
        return False
    if not all(layer.beside is not None and layer.beside is layers[0].beside for layer in layers):
        together = _Together(layers)
        for layer in layers:
            layer.beside = together
    return True


class _Together:
    """The layers, and what the first one called has computed for the others."""

    def __init__(self, layers: Sequence[LoraForward]) -> None:
        self._layers = list(layers)
        self._parameters = [each.weight for layer in layers for each in (layer.a, layer.b)]
        self._waiting: tuple[Tensor, tuple[Any, ...], dict[LoraForward, Tensor]] | None = None
        weights = [layer.base.weight for layer in layers]
        self._whole: Tensor | None = None
        if all(getattr(weight, "quant_state", None) is None for weight in weights):
            self._whole = torch.cat([weight.data for weight in weights])
            parts = torch.split(self._whole, [len(weight) for weight in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.data = part  # the same numbers, once in memory
        self._places = [weight.data_ptr() for weight in weights]
        self.ranks = [len(layer.a.weight) for layer in layers]
        self.widths = [len(layer.b.weight) for layer in layers]
        self.scales = [layer.scale for layer in layers]
        self.blocks = _blocks(self.widths, self.ranks)

    def __call__(self, layer: LoraForward, x: Tensor) -> Tensor:
        # What waits is of these very activations and these very parameters, or it is of no use.
        state = (torch.is_grad_enabled(), *(each._version for each in self._parameters))
        waiting = self._waiting
        if waiting is None or waiting[0] is not x or waiting[1] != state or layer not in waiting[2]:
            made: tuple[Tensor, ...] = _Apply.apply(x, self, *self._parameters)  # type: ignore[no-untyped-call]
            waiting = self._waiting = (x, state, dict(zip(self._layers, made, strict=True)))
        y = waiting[2].pop(layer)
        if not waiting[2]:
            self._waiting = None
        return y

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Their frozen weights, one below the other: [sum of out, in]."""
        places = [layer.base.weight.data_ptr() for layer in self._layers]
        if self._whole is not None and places == self._places:
            return self._whole  # unless somebody gave a layer another weight since
        return torch.cat([dense_weight(layer.base, dtype) for layer in self._layers])

    def bias(self) -> Tensor | None:
        biases = [layer.base.bias for layer in self._layers]
        return None if biases[0] is None else torch.cat(biases)


class _Apply(torch.autograd.Function):
    """As the single layer's step: all A below one another, all B, each with its scale, on a block diagonal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, of: _Together, *parameters: Tensor) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        a = torch.cat(parameters[::2]).to(x.dtype)
        scaled = (part * scale for part, scale in zip(parameters[1::2], of.scales, strict=True))
        b: Tensor = torch.block_diag(*scaled).to(x.dtype)  # type: ignore[no-untyped-call]
        low = rows @ a.t()
        y = F.linear(rows, of.weight(x.dtype), of.bias())
        y.addmm_(low, b.t())
        ctx.save_for_backward(rows, a, b, low)
        ctx.of, ctx.parameters = of, parameters
        return torch.split(y.view(*x.shape[:-1], y.shape[-1]), of.widths, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, a, b, low = ctx.saved_tensors
        of = cast(_Together, ctx.of)
        up = torch.cat(grads, -1).view(len(rows), -1)
        back = up @ b
        parts = torch.split(back.t() @ rows, of.ranks)
        grads_a = [added(a, part) for a, part in zip(ctx.parameters[::2], parts, strict=True)]
        whole = up.t() @ low
        grads_b = [
            added(b, whole[block], scale)
            for b, block, scale in zip(ctx.parameters[1::2], of.blocks, of.scales, strict=True)
        ]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = up @ of.weight(up.dtype)
            grad_x.addmm_(back, a)
            grad_x = grad_x.view(*grads[0].shape[:-1], a.shape[1])
        pairs = zip(grads_a, grads_b, strict=True)
        return grad_x, None, *(grad for pair in pairs for grad in pair)


def _blocks(widths: Sequence[int], ranks: Sequence[int]) -> list[tuple[slice, slice]]:
    """Where each layer's B stands: its rows and columns."""
    places, across, down = [], 0, 0
    for width, rank in zip(widths, ranks, strict=True):
        places.append((slice(across, across + width), slice(down, down + rank)))
        across, down = across + width, down + rank
    return places
