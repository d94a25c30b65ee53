"""Cross entropy at the supervised positions alone.

The decoder runs over every token, the output head only over those hidden states whose next token is
supervised, a chunk at a time: with a vocabulary of 128,000, logits of everything would be most of a
step's memory. On CUDA Liger's kernel does both at once where it is installed; elsewhere the gradient is made where
the logits are, which are then let go. Knows nothing of rows, templates or batching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cloister import compiler
from cloister.models.borders import Borders
from cloister.planning.memory import POSITION_STEP, head_chunk

PLAIN_HEADS = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "ministral"}
)
"""Model types whose logits are `lm_head(model(ids))`, soft-capped where the config says so. Others scale
or normalise in between and take the long way."""


@dataclass(frozen=True)
class SupervisedLoss:
    """`nats` is the summed loss, differentiable; `count` the supervised tokens that it sums over."""

    nats: torch.Tensor
    count: int


def supervised_loss(
    model: nn.Module,
    input_ids: torch.Tensor,
    supervised: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    borders: Borders | None = None,
    chunk: int | None = None,
) -> SupervisedLoss:
    """Summed cross entropy of the supervised tokens, in nats.

    Padding is known by position: it is what neither `supervised` nor, where given, `attention_mask`
    covers, and in right-padded rows nothing attends to it, so no mask is needed. Rows packed after one
    another need `position_ids` that start anew at each row, and no `attention_mask`: the block-diagonal mask is
    transformers' then. With `borders` there is none, and the attention has to be one that reads them.

    Args:
        model: a causal language model of transformers, bare or inside a `PeftModel`.
        input_ids: (rows, tokens).
        supervised: (rows, tokens), true where the token itself is to be predicted from those before it.
            The first column is never predicted.
        attention_mask: (rows, tokens) of 0 and 1, only for left-padded rows.
        position_ids: (rows, tokens).
        borders: of rows packed into one line, in place of `position_ids`.
        chunk: positions that go through the output head at once; as many as their logits allow unless given.
    """
    causal = causal_model(model)
    inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
    if position_ids is not None:
        inputs["position_ids"] = position_ids
    if borders is not None:
        inputs |= borders.inputs()

    predicts = supervised[:, 1:].nonzero(as_tuple=True)
    targets = input_ids[:, 1:][predicts]
    if targets.numel() == 0:
        return SupervisedLoss(torch.zeros((), dtype=torch.float32, device=input_ids.device), 0)

    if causal.config.model_type not in PLAIN_HEADS:
        logits = causal(**inputs).logits[:, :-1][predicts]
        return SupervisedLoss(F.cross_entropy(logits.float(), targets, reduction="sum"), targets.numel())

    hidden = causal.model(**inputs).last_hidden_state[:, :-1][predicts]
    cap = getattr(causal.config, "final_logit_softcapping", None)
    head = causal.get_output_embeddings()
    if hidden.device.type == "cuda" and head.bias is None:
        fused = liger_loss()
        if fused is not None:
            nats = fused(reduction="sum", softcap=cap)(head.weight, hidden, targets)
            return SupervisedLoss(nats.float(), targets.numel())
    chunk = chunk or head_chunk(len(head.weight))
    if head.bias is None and cap is None and not head.weight.requires_grad:
        nats = _FrozenHead.apply(hidden, head.weight, targets, chunk)  # type: ignore[no-untyped-call]
        return SupervisedLoss(nats, targets.numel())
    nats = torch.zeros((), dtype=torch.float32, device=hidden.device)
    pieces = list(zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True))
    for states, expected in pieces:
        if len(pieces) > 1 and torch.is_grad_enabled():
            nats = nats + checkpoint(_chunk_loss, head, states, expected, cap, use_reentrant=False)
        else:
            nats = nats + _chunk_loss(head, states, expected, cap)
    return SupervisedLoss(nats, targets.numel())


def liger_loss() -> Any | None:
    """Liger's fused head and cross entropy (liger-kernel 0.8), for CUDA only; None where it is not installed, or its
    kernels would not compile."""
    if compiler.missing() is not None:
        return None
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss


class _FrozenHead(torch.autograd.Function):
    """Summed cross entropy of hidden [positions, width] through a frozen head [vocabulary, width], softmax in float32.

    The gradient is made along with the loss: no logits are kept, nor made twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int
    ) -> torch.Tensor:
        nats = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grads: list[torch.Tensor] = []
        for states, expected in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
            count = len(states)
            if states.device.type == "cpu":
                states = F.pad(states, (0, 0, 0, -count % POSITION_STEP))
            likely = torch.log_softmax(F.linear(states, weight).float(), -1)
            own = expected[:, None]
            nats -= likely[:count].gather(1, own).sum()
            if ctx.needs_input_grad[0]:
                likely.exp_()
                likely[:count].scatter_add_(1, own, likely.new_full((), -1.0).expand(own.shape))
                grads.append((likely.to(weight.dtype) @ weight)[:count])
        ctx.save_for_backward(*([torch.cat(grads)] if grads else []))
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (made,) = ctx.saved_tensors
        return (made.float() * grad).to(made.dtype), None, None, None


def _chunk_loss(
    head: nn.Module, states: torch.Tensor, expected: torch.Tensor, cap: float | None
) -> torch.Tensor:
    logits = head(states)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return F.cross_entropy(logits.float(), expected, reduction="sum")


def causal_model(model: Any) -> Any:
    """The transformers model inside a `PeftModel`, whose layers carry the adapter themselves."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
