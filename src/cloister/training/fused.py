"""The same forward and backward as peft's and transformers', in fewer passes over memory.

A LoRA layer becomes one autograd step that computes in the activations' type while its parameters stay
in float32; attention over short rows on the CPU becomes four batched products. Knows no recipe, no data
and no file; a layer that it does not recognise keeps the forward it came with.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHORT_ROW = 512
"""Rows up to this many tokens take the batched products; above, torch's blocked attention is better."""

_ATTENTION = "cloister-short"


def fuse(model: nn.Module) -> int:
    """Give every plain LoRA layer the fused forward, and short rows on the CPU the fused attention.

    Left alone: DoRA and other variants, merged layers, several adapters at once, layers that are not linear.
    Returns the number of layers changed. Calling it twice changes nothing more.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and _is_plain(module):
            module.forward = _LoraForward(module)
            changed += 1
    if next(model.parameters()).device.type == "cpu":
        _use_short_attention(model)
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


def _use_short_attention(model: nn.Module) -> None:
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    if getattr(inner.config, "_attn_implementation", None) != "sdpa":
        return
    AttentionInterface.register(_ATTENTION, _attention_forward)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    inner.set_attn_implementation(_ATTENTION)


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: query [rows, heads, length, width], key and value with their own heads."""
    length = query.shape[2]
    short = (
        length == key.shape[2]
        and 1 < length <= SHORT_ROW
        and attention_mask is None
        and not dropout
        and kwargs.get("is_causal") is not False
        and kwargs.get("position_bias") is None
        and kwargs.get("softcap") is None
        and torch.is_grad_enabled()
    )
    if not short:
        return cast(
            "tuple[Tensor, None]",
            sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs),
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = _CausalAttention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return out, None


class _CausalAttention(torch.autograd.Function):
    """Causal attention with grouped key heads, softmax in float32. Gives [rows, length, heads, width]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, heads, length, width = query.shape
        groups = heads // key.shape[1]
        q = query.reshape(-1, groups * length, width)
        k, v = key.reshape(-1, length, width), value.reshape(-1, length, width)
        above = torch.full((length, length), -torch.inf, device=q.device).triu_(1).repeat(groups, 1)
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale).add_(above)
        weights = torch.softmax(scores, -1).to(q.dtype)
        out = torch.bmm(weights, v)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shape = scale, query.shape
        return out.view(rows, heads, length, width).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        rows, _, length, width = ctx.shape
        up = grad.transpose(1, 2).reshape(q.shape)
        grad_v = torch.bmm(weights.transpose(1, 2), up)
        grad_w = torch.bmm(up, v.transpose(1, 2))
        grad_s = torch.ops.aten._softmax_backward_data(grad_w, weights, -1, weights.dtype).mul_(ctx.scale)
        grad_q = torch.bmm(grad_s, k)
        grad_k = torch.bmm(grad_s.transpose(1, 2), q)
        kv_shape = (rows, -1, length, width)
        return grad_q.view(ctx.shape), grad_k.view(kv_shape), grad_v.view(kv_shape), None
