"""How far a run is: all that changes from step to step besides tensors, as it goes into checkpoints; and when to end.

Knows numbers and the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import median
from typing import Any

from cloister.api import TrainConfig

DIVERGED_STEPS = 20
"""So many steps in a row must be far worse than before, for a run to count as diverged."""
TELLING_ROWS = 8
"""Rows whose mean loss says where a run stands."""
LOW_STEPS = 3
"""So many steps in a row, at least, say where a run had come to."""
NOTHING = 0.001
"""A hold-out loss that fell by less than such a share did not fall."""
BACK = 0.9
"""From so much of the loss that it began with on, a run is back there."""


@dataclass
class Reached:
    """`micro_batch_size`, `packed` and `recompute` are how rows go through the model; 0 and None before the probe.
    `low` is the loss that it had come to before the last steps, None before there are enough. `holdout_start` is the
    hold-out loss before the first step, None without a hold-out."""

    step: int = 0
    evaluated: int = 0
    saved: int = 0
    best_step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0
    micro_batch_size: int = 0
    packed: bool | None = None
    recompute: bool | None = None
    losses: list[float] = field(default_factory=list)
    holdout_losses: list[tuple[int, float]] = field(default_factory=list)
    low: float | None = None
    holdout_start: float | None = None

    @classmethod
    def read(cls, document: dict[str, Any]) -> Reached:
        """From a checkpoint."""
        reached = cls(**document)
        reached.holdout_losses = [(int(step), float(loss)) for step, loss in reached.holdout_losses]
        return reached

    def fell_back(self, config: TrainConfig) -> bool:
        """Whether rows go through the model otherwise than they were to, because memory ran out."""
        recomputed = bool(self.recompute) and config.gradient_checkpointing is not True
        return recomputed or self.micro_batch_size < min(config.micro_batch_size, config.batch_size)

    def lowest(self) -> float:
        """The lowest hold-out loss so far; infinity before the first."""
        return min((loss for _, loss in self.holdout_losses), default=math.inf)

    def looked(self, step: int, loss: float | None) -> bool:
        """Take in the hold-out loss of a step, None without a hold-out: whether its adapter is the best so far."""
        best = loss is None or loss < self.lowest()
        if best:
            self.best_step = step
        if loss is not None:
            self.holdout_losses = sorted([*self.holdout_losses, (step, loss)])
        return best

    def evaluations_since_best(self) -> int:
        """How many evaluations there have been since the one that gave the lowest loss."""
        losses = [loss for _, loss in self.holdout_losses]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def diverged(self, batch_size: int) -> str | None:
        """In what way the last steps show that it did; None where they do not. Asked after each step.

        Either all of them are far above where it began, or all are far above where it had come to, and it is back where
        it began: what it had learnt is lost. Far is half as much again, and half a nat.
        """
        if len(self.losses) <= DIVERGED_STEPS:
            return None
        self._settle_low(batch_size)
        recent = self.losses[-DIVERGED_STEPS:]
        start, now = self.start(batch_size), median(recent)
        if min(recent) > _far(start):
            return f"The loss grew from {start:.3f} to {self.losses[-1]:.3f} by step {self.step} and stayed there."
        if self.low is not None and min(recent) > _far(self.low) and now >= BACK * start:
            return (
                f"The loss had fallen from {start:.3f} to {self.low:.3f} and is back at {now:.3f} by step {self.step}: "
                "what was learnt is lost."
            )
        return None

    def start(self, batch_size: int) -> float:
        """The loss that it began with, which is the base's, since an adapter begins as nothing: of the first steps,
        as many as it takes for a few rows, since one row alone may be an easy one."""
        first = self.losses[: -(-TELLING_ROWS // batch_size)]
        return math.fsum(first) / len(first)

    def risen(self, batch_size: int) -> str | None:
        """Of a run that is over: that its hold-out loss never was below where it began; None where it was.

        Of a run from before its beginning was measured the training loss says where that was.
        """
        if not self.holdout_losses:
            return None
        if self.holdout_start is not None:
            start, began = self.holdout_start, "it was {:.4g} before the first step"
            fell = self.lowest() < (1 - NOTHING) * start
        else:
            start, began = self.start(batch_size), "the training loss began at {:.4g}"
            fell = self.lowest() < start
        if fell:
            return None
        return (
            f"The hold-out loss was never lower than {self.lowest():.4g}, and {began.format(start)}: this run taught "
            "the model nothing, or made it worse. Take another learning rate."
        )

    def good(self, batch_size: int) -> bool:
        """Of a run that went wrong: whether the best adapter is from before. It was measured on a hold-out, ahead of
        the last steps that are all far above where it had come to, and was not itself so far above it."""
        if not self.losses or not self.holdout_losses:
            return False
        return self.lowest() <= self._bound(batch_size) and 0 < self.best_step <= self.well_until(batch_size)

    def well_until(self, batch_size: int) -> int:
        """The last step ahead of those that are all far above where it had come to."""
        if not self.losses:
            return 0
        bound = self._bound(batch_size)
        return len(self.losses) - sum(1 for _ in takewhile(lambda loss: loss > bound, reversed(self.losses)))

    def _bound(self, batch_size: int) -> float:
        start = self.start(batch_size)
        return _far(start if self.low is None else min(self.low, start))

    def _settle_low(self, batch_size: int) -> None:
        """Where the loss had come to before the last steps: the lowest middle of so many in a row."""
        steps = max(LOW_STEPS, -(-TELLING_ROWS // batch_size))
        before = self.losses[-DIVERGED_STEPS - steps : -DIVERGED_STEPS]
        if len(before) == steps:
            self.low = min(median(before), math.inf if self.low is None else self.low)


def _far(loss: float) -> float:
    return 1.5 * loss + 0.5
