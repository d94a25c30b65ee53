"""How long a run is and how fast it learns at each step: steps, warm-up, decay.

Pure arithmetic on numbers; knows no model, no optimizer and no rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cloister.api import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then half a cosine or a line down to zero after the last step, or `peak` to the end.

    Steps count from 0. Unlike the common form, the first step already learns (`peak / warmup_steps`)
    and the last still does: no step of a short run is spent at a rate of zero.
    """

    peak: float
    total_steps: int
    warmup_steps: int
    form: Literal["cosine", "linear", "constant"] = "cosine"

    def rate(self, step: int) -> float:
        """The learning rate that step number `step` is taken with."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.form == "constant":
            return self.peak
        if self.form == "linear":
            return self.peak * (1.0 - min(1.0, done))
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def plan_schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """The schedule of a run over `steps_per_epoch` optimizer steps an epoch.

    A broken epoch is rounded up to whole steps; `max_steps` caps the total.
    """
    total = max(1, math.ceil(config.epochs * steps_per_epoch - 1e-9))
    if config.max_steps is not None:
        total = min(total, config.max_steps)
    warmup = min(math.ceil(config.warmup_ratio * total - 1e-9), total - 1)  # 0.07 * 100 is more than 7
    return Schedule(config.learning_rate, total, warmup, config.lr_scheduler)


def due(step: int, every: int, per_epoch: float, steps_per_epoch: int) -> bool:
    """Whether what is done every so many steps is due after `step` of them, counted from 1; where `every` is 0,
    `per_epoch` times an epoch, as evenly spread as whole steps allow."""
    if every:
        return step % every == 0
    return _times(step, per_epoch, steps_per_epoch) > _times(step - 1, per_epoch, steps_per_epoch)


def _times(step: int, per_epoch: float, steps_per_epoch: int) -> int:
    return math.floor(step * per_epoch / steps_per_epoch + 1e-6)  # 3.333333333 times is ten times in three
