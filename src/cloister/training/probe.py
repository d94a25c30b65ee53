"""Tried before a run begins: whether packing is exact on this model, and what memory a step and an evaluation take.

Leaves no trace: no gradient, no draw from a random generator. Knows a model and batches; it decides nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from cloister.errors import InvalidInput
from cloister.models.loss import causal_model, supervised_loss
from cloister.training.attention import use_attention
from cloister.training.rows import Batch, TokenRows

EXACT = {torch.float32: 1e-4}
"""How far packed hidden states may be from unpacked ones, relative; for 16 bits `ROUGH`, their rounding."""

ROUGH = 5e-2
ALONE = 1e-3
"""How far a row's hidden states may move when its neighbour's content changes, relative."""

MOST_TOKENS = 4096

_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
)
"""What libraries below torch say when memory runs out, in errors that have no type of their own."""


def packing_fault(model: nn.Module, rows: TokenRows, device: torch.device) -> str | None:
    """Why rows cannot be packed on this model, None where they can: two real rows are compared, packed and not.

    The second row packed behind the first must be what it is alone, and stay so when the first is another text.
    """
    if not use_attention(model):
        return "its attention is not one that knows where rows end"
    order = sorted(range(len(rows)), key=lambda i: (-int(rows.lengths[i]), i))
    fitting = [i for i in order if rows.lengths[i] <= MOST_TOKENS] or order[-1:]
    first, second = fitting[0], fitting[len(fitting) // 2]
    packed = rows.packed([first, second], device)
    alone = [rows.packed([i], device).input_ids for i in (first, second)]
    other = packed.input_ids.clone()
    cut = int(rows.lengths[first])
    other[0, :cut] = other[0, :cut].flip(0)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            together = _hidden(model, packed.input_ids, packed)
            moved = _hidden(model, other, packed)
            apart = torch.cat([_hidden(model, ids, None) for ids in alone])
            model.train()
            with _nothing_drawn(device):  # attention with dropout is another one while it trains
                _hidden(model, alone[1], rows.packed([second], device))
    except InvalidInput as error:
        return error.message
    except TypeError:
        return "its layers do not take where rows end"
    except Exception as error:
        if not ran_out(error):
            raise
        return "memory does not hold the rows that it would be tried with"
    finally:
        model.train(was_training)
    if _distance(moved[cut:], together[cut:]) > ALONE:
        return "a row's tokens depend on the row before it"
    if _distance(together, apart) > EXACT.get(together.dtype, ROUGH):
        return "a packed row comes out otherwise than alone"
    return None


def try_step(model: nn.Module, batch: Batch) -> None:
    """Forward and backward on one micro-batch, and nothing of it kept. Errors: whatever memory says."""
    with _nothing_drawn(batch.input_ids.device):
        try:
            loss = supervised_loss(model, batch.input_ids, batch.supervised, borders=batch.borders).nats
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        finally:
            model.zero_grad(set_to_none=True)


@torch.no_grad()
def try_evaluation(model: nn.Module, batch: Batch) -> None:
    """One hold-out batch. Errors: whatever memory says."""
    model.eval()
    try:
        supervised_loss(model, batch.input_ids, batch.supervised)
    finally:
        model.train()


def ran_out(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, of the GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def _nothing_drawn(device: torch.device) -> AbstractContextManager[None]:
    """Afterwards the random generators stand where they stood."""
    forked: AbstractContextManager[None] = torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    )
    return forked


def _hidden(model: nn.Module, ids: Tensor, packed: Batch | None) -> Tensor:
    """[tokens, width] of the decoder's last layer."""
    decoder: Any = causal_model(model).base_model
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if packed is not None and packed.borders is not None:
        inputs |= packed.borders.inputs()
    states: Tensor = decoder(**inputs).last_hidden_state
    return states[0]


def _distance(one: Tensor, other: Tensor) -> float:
    """The norm of the difference, relative to the other's."""
    wanted = other.float()
    return float((one.float() - wanted).norm() / wanted.norm().clamp_min(1e-12))
