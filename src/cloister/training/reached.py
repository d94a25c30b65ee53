"""How far a run is: all that changes from step to step besides tensors, as it goes into checkpoints; and when to end.

Knows numbers and the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from cloister.api import TrainConfig

DIVERGED_STEPS = 20
"""So many steps in a row must be worse than the start before a run counts as diverged."""


@dataclass
class Reached:
    """`micro_batch_size`, `packed` and `recompute` are how rows go through the model; 0 and None before the probe."""

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

    def evaluations_since_best(self) -> int:
        """How many evaluations there have been since the one that gave the lowest loss."""
        losses = [loss for _, loss in self.holdout_losses]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def diverged(self) -> bool:
        """Whether the last steps were all far above the first: half as much again, and half a nat.

        The first step's loss is the base model's, since an adapter begins as nothing; a run that stays so far above it
        learns nothing that a better rate would not.
        """
        recent = self.losses[-DIVERGED_STEPS:]
        return len(self.losses) > DIVERGED_STEPS and min(recent) > 1.5 * self.losses[0] + 0.5
