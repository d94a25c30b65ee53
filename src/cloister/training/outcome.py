"""What a finished run says of itself, and what one says whose numbers went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cloister.api import TrainConfig
from cloister.errors import Diverged
from cloister.training.reached import Reached
from cloister.training.rows import TokenRows


@dataclass(frozen=True)
class TrainOutcome:
    """What came of a run. Losses are nats a supervised token.

    `train_loss` is the mean of the last epoch's steps; `holdout_loss` that of the best step, `holdout_start` the one
    before the first, None without a hold-out. `losses[i]` is the loss of step i + 1, `holdout_losses` pairs of step and
    loss. `best` and `last` are the adapter's tensors, on the CPU; of a run that went wrong there is no `last`, and
    `train_loss` is the mean of the epoch up to the best step. `seconds` counts all attempts, evaluation included;
    `tokens_per_s` counts training alone. `packed` says whether rows lay end to end; `longest` is the longest row
    in tokens, `epoch_rows` and `epoch_tokens` are what one pass over all of them has; a text's windows count as rows.
    `fell_back` says whether memory ran out on the way, so that its peak tells nothing of the settings.
    """

    steps: int
    train_loss: float
    holdout_loss: float | None
    best_step: int
    tokens: int
    supervised_tokens: int
    tokens_per_s: float
    seconds: float
    losses: list[float]
    holdout_losses: list[tuple[int, float]]
    best: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    packed: bool = False
    longest: int = 0
    epoch_rows: int = 0
    epoch_tokens: int = 0
    fell_back: bool = False
    holdout_start: float | None = None


def outcome_of(
    reached: Reached,
    config: TrainConfig,
    rows: TokenRows,
    steps_per_epoch: int,
    end: int,
    best: Mapping[str, Tensor],
    last: Mapping[str, Tensor],
) -> TrainOutcome:
    """What came of a run that has reached so far; `end` is the step up to which it learnt well."""
    last_epoch = reached.losses[:end][-steps_per_epoch:]
    return TrainOutcome(
        steps=reached.step,
        train_loss=math.fsum(last_epoch) / len(last_epoch),
        holdout_loss=dict(reached.holdout_losses).get(reached.best_step),
        best_step=reached.best_step,
        tokens=reached.tokens,
        supervised_tokens=reached.supervised_tokens,
        tokens_per_s=reached.tokens / max(reached.train_seconds, 1e-9),
        seconds=reached.seconds,
        losses=reached.losses,
        holdout_losses=reached.holdout_losses,
        best=best,
        last=last,
        packed=bool(reached.packed),
        longest=int(rows.lengths.max()),
        epoch_rows=len(rows),
        epoch_tokens=int(rows.lengths.sum()),
        fell_back=reached.fell_back(config),
        holdout_start=reached.holdout_start,
    )


class WentWrong(Diverged):
    """A run's numbers went wrong. `kept` is what it had come to before: its best adapter, as measured on the hold-out.

    None where nothing is worth keeping: there was no hold-out, it was too early for a copy, or none was any better.
    """

    def __init__(self, cause: Diverged, kept: TrainOutcome | None) -> None:
        told = "Nothing was measured before that is worth keeping."
        if kept is not None:
            told = (
                f"What is kept is the adapter of step {kept.best_step}, before it went wrong: its hold-out loss of "
                f"{kept.holdout_loss:.4g} is the lowest."
            )
        super().__init__(f"{cause.message} {told}", where=cause.where, remedy=cause.remedy)
        self.kept = kept
