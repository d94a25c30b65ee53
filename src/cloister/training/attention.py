"""Attention for training: batched products over short rows on the CPU, and rows laid end to end on any device.

Registered with transformers under a name of its own. Packed rows come with `Borders`, and then a mask is neither made
nor read: each row attends to itself. Without borders everything but short causal rows is transformers' own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cloister.errors import InvalidInput
from cloister.models.borders import Borders

SHORT_ROW = 512
"""Rows up to this many tokens take the batched products; above, torch's blocked attention is better."""

SPREAD = 3
"""Packed rows are laid side by side where that takes so many times their own tokens at most: beside one long row many
short ones would take the memory of as many long ones."""

ATTENTION = "cloister"


def use_attention(model: nn.Module) -> bool:
    """Have a model of transformers use it; whether it does now. Only models on `sdpa` do."""
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    own = getattr(inner.config, "_attn_implementation", None)
    if own == ATTENTION:
        return True
    if own != "sdpa":
        return False
    AttentionInterface.register(ATTENTION, _attention_forward)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    inner.set_attn_implementation(ATTENTION)
    return True


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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    borders = kwargs.get("borders")
    if borders is not None:
        if dropout or any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "s_aux")):
            raise InvalidInput("this model's attention cannot be packed")
        return _packed(query, key, value, borders, scale, kwargs.get("sliding_window")), None
    length = query.shape[2]
    short = (
        query.device.type == "cpu"
        and length == key.shape[2]
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
    return _causal(query, key, value, scale), None


def _packed(
    query: Tensor, key: Tensor, value: Tensor, borders: Borders, scale: float, window: int | None
) -> Tensor:
    """Each row by itself. Everything [1, heads, tokens, width]; gives [1, tokens, heads, width]."""
    windowed = window if window is not None and window < borders.longest else None
    if _by_flash(query):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
        offsets, longest = borders.offsets, borders.longest
        # Flash attention counts a window to either side of the token itself, 0 to the right being causal.
        left = -1 if windowed is None else windowed - 1
        out = varlen_attn(
            q,
            k,
            v,
            offsets,
            offsets,
            longest,
            longest,
            scale=scale,
            window_size=(left, 0),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return cast(Tensor, out)[None]
    if borders.longest <= SHORT_ROW and borders.places.numel() <= SPREAD * borders.flat.numel():
        # Side by side, then back into the line; what stands in for missing tokens is behind them and never seen.
        rows, keys, values = (_spread(each, borders) for each in (query, key, value))
        out = _causal(rows, keys, values, scale, windowed)
        line: Tensor = _Line.apply(out, borders)  # type: ignore[no-untyped-call]
        return line[None]
    pieces = []
    grouped = query.shape[1] != key.shape[1]
    parts = (torch.split(each, list(borders.lengths), dim=2) for each in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        length = q.shape[2]
        if windowed is not None and windowed < length:
            mask = _allowed(length, windowed, q.device)
            piece = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
        else:
            piece = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        pieces.append(piece)
    return torch.cat(pieces, dim=2).transpose(1, 2)


def _by_flash(query: Tensor) -> bool:
    """Whether packed rows go to torch's flash attention."""
    return query.device.type == "cuda" and _flash(
        query.dtype, query.shape[-1], torch.cuda.get_device_capability(query.device)
    )


def _flash(dtype: torch.dtype, width: int, capability: tuple[int, int]) -> bool:
    """Whether torch's flash attention has a kernel for heads so wide on a GPU of that compute capability. Its varlen
    form falls back to no other one: it raises (flash_attn/flash_api.cpp, mha_varlen_fwd, torch 2.13)."""
    return (
        dtype in (torch.float16, torch.bfloat16) and width <= 256 and width % 8 == 0 and capability >= (8, 0)
    )


def _spread(line: Tensor, borders: Borders) -> Tensor:
    """[1, heads, tokens, width] to [rows, heads, longest, width]."""
    rows: Tensor = _Rows.apply(line[0].transpose(0, 1), borders)  # type: ignore[no-untyped-call]
    return rows.transpose(1, 2)


class _Rows(torch.autograd.Function):
    """[tokens, ...] to [rows, longest, ...]. What stands in for missing tokens is looked at by nobody: no gradient."""

    @staticmethod
    def forward(ctx: Any, line: Tensor, borders: Borders) -> Tensor:
        ctx.borders = borders
        rows = line.index_select(0, borders.places.reshape(-1))
        return rows.view(*borders.places.shape, *line.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.reshape(-1, *grad.shape[2:]).index_select(0, ctx.borders.flat), None


class _Line(torch.autograd.Function):
    """The way back, [rows, longest, ...] to [tokens, ...]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, borders: Borders) -> Tensor:
        ctx.borders = borders
        return rows.reshape(-1, *rows.shape[2:]).index_select(0, borders.flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        shape = (*ctx.borders.places.shape, *grad.shape[1:])
        rows = grad.new_zeros((shape[0] * shape[1], *shape[2:])).index_copy_(0, ctx.borders.flat, grad)
        return rows.view(shape), None


def _allowed(length: int, window: int | None, device: torch.device) -> Tensor:
    """[length, length], true where a token (line) may look at another (column)."""
    allowed = torch.ones((length, length), dtype=torch.bool, device=device).tril_()
    return allowed if window is None else allowed.triu_(1 - window)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None) -> Tensor:
    out: Tensor = _CausalAttention.apply(query, key, value, scale, window)  # type: ignore[no-untyped-call]
    return out


class _CausalAttention(torch.autograd.Function):
    """Causal attention with grouped key heads, softmax in float32. Gives [rows, length, heads, width]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        rows, heads, length, width = query.shape
        groups = heads // key.shape[1]
        q = query.reshape(-1, groups * length, width)
        k, v = key.reshape(-1, length, width), value.reshape(-1, length, width)
        above = torch.zeros((length, length), device=q.device)
        above.masked_fill_(~_allowed(length, window, q.device), -torch.inf)
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale).add_(above.repeat(groups, 1))
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
        return grad_q.view(ctx.shape), grad_k.view(kv_shape), grad_v.view(kv_shape), None, None
