"""The mean loss of a model over rows that it does not learn from.

Knows batches of ids and masks, not where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from cloister.errors import Interrupted
from cloister.models.loss import supervised_loss


class LossBatch(Protocol):
    """Rows side by side, padded on the right: both tensors [rows, length]."""

    @property
    def input_ids(self) -> Tensor: ...
    @property
    def supervised(self) -> Tensor: ...


@torch.no_grad()
def mean_loss(
    model: Any,
    batches: Iterable[LossBatch],
    *,
    on_batch: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> float:
    """Nats a supervised token over all batches together. The model's mode is put back afterwards.

    Raises:
        ValueError: no batch has a supervised token.
        Interrupted: `should_stop` said so.
    """
    nats, count, rows = 0.0, 0, 0
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            stop_if(should_stop)
            loss = supervised_loss(model, batch.input_ids, batch.supervised)
            nats += float(loss.nats)
            count += loss.count
            rows += len(batch.input_ids)
            if on_batch is not None:
                on_batch(rows)
    finally:
        model.train(was_training)
    if not count:
        raise ValueError("no supervised token")
    return nats / count


@torch.no_grad()
def row_losses(
    model: Any,
    batches: Iterable[LossBatch],
    *,
    on_batch: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[list[float], list[int]]:
    """Nats and supervised tokens of each batch, which holds one row: what an interval is drawn from."""
    nats: list[float] = []
    counts: list[int] = []
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            stop_if(should_stop)
            loss = supervised_loss(model, batch.input_ids, batch.supervised)
            nats.append(float(loss.nats))
            counts.append(loss.count)
            if on_batch is not None:
                on_batch(len(nats))
    finally:
        model.train(was_training)
    return nats, counts


def stop_if(should_stop: Callable[[], bool] | None) -> None:
    """Raise Interrupted where someone asked for it."""
    if should_stop is not None and should_stop():
        raise Interrupted("The evaluation was cut off.", remedy="Start it again.")
