"""Packed rows in torch's varlen attention, which only a GPU has a kernel for: its definition stands in for the kernel.

All above it is torch's own: `varlen_attn`, its checks, and how it is differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cloister.models.borders import Borders
from cloister.training import attention


def weights(query: Tensor, key: Tensor, scale: float, window: tuple[int, int]) -> Tensor:
    """Of one row, [heads, tokens, tokens]; `window` is how many tokens to either side are seen, -1 for all of them."""
    at = torch.arange(len(query))
    ahead = at[None, :] - at[:, None]
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if window[0] >= 0:
        seen &= ahead >= -window[0]
    if window[1] >= 0:
        seen &= ahead <= window[1]
    return (torch.einsum("qhw,khw->hqk", query, key) * scale).masked_fill(~seen, -torch.inf).softmax(-1)


def rows_of(offsets: Tensor, query: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each row's part of every tensor, as many heads in all of them."""
    heads = query.shape[1]
    wide = [each.repeat_interleave(heads // each.shape[1], 1) for each in (query, *others)]
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield tuple(each[start:end] for each in wide)


def window_of(causal: bool, known: dict[str, Any]) -> tuple[int, int]:
    return known["window_size_left"], 0 if causal else known["window_size_right"]


def forward(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, keys: Tensor, *others: Any, **known: Any) -> Any:
    """aten::_flash_attention_forward, [tokens, heads, width]."""
    longest, longest_key, dropout, causal, *_ = others
    assert rows.dtype == torch.int32 and torch.equal(rows, keys) and not dropout
    assert longest == longest_key == int(rows.diff().max())
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    scale, window = known["scale"], window_of(causal, known)
    out = [
        torch.einsum("hqk,khw->qhw", weights(a, b, scale, window), c) for a, b, c in rows_of(rows, q, k, v)
    ]
    empty = torch.empty(0)
    return torch.cat(out), torch.zeros(q.shape[1], len(q)), empty, empty, empty


def backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: Any, **known: Any) -> Any:
    """aten::_flash_attention_backward."""
    _, _, rows, _, _, _, _, causal, *_ = others
    scale, window = known["scale"], window_of(causal, known)
    grads = []
    for a, b, c, up in rows_of(rows, q, k, v, grad):
        shares = weights(a, b, scale, window)
        of_shares = torch.einsum("qhw,khw->hqk", up, c)
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True)) * scale
        grads.append(
            (
                torch.einsum("hqk,khw->qhw", of_scores, b),
                torch.einsum("hqk,qhw->khw", of_scores, a),
                torch.einsum("hqk,qhw->khw", shares, up),
            )
        )
    found = (torch.cat(each) for each in zip(*grads, strict=True))
    return tuple(
        each.view(len(q), like.shape[1], -1, q.shape[2]).sum(2)
        for each, like in zip(found, (q, k, v), strict=True)
    )


@pytest.mark.parametrize("window", [None, 3, 50])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["all", "grouped"])
def test_packed_rows_come_out_as_on_a_cpu(
    window: int | None, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    borders = Borders.of((5, 1, 9, 7))
    torch.manual_seed(0)
    inputs = [torch.randn(1, count, 22, 8) for count in (heads[0], heads[1], heads[1])]
    found = []
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        for flash in (True, False):
            monkeypatch.setattr(attention, "_by_flash", lambda query, flash=flash: flash)
            own = [each.clone().requires_grad_() for each in inputs]
            out = attention._packed(*own, borders, 0.3, window)
            assert out.shape == (1, 22, heads[0], 8)
            pull = torch.linspace(-1, 1, out.numel()).view(out.shape)
            found.append([out.detach(), *torch.autograd.grad((out * pull).sum(), own)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
