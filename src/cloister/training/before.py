"""Copies of the adapter along the way: what a run goes back to whose numbers went wrong before they were measured.

The last two lie in memory, and are measured when it has gone wrong. Knows adapters by step; no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cloister.training.keeping import Adapter
from cloister.training.observer import Observer
from cloister.training.reached import DIVERGED_STEPS, Reached

EVERY = DIVERGED_STEPS
"""Steps from one copy to the next: of two, one is from before as many steps as show that a run diverged."""


class Before:
    """The copies of one run, where they can be measured. Each process has the same."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._copies: list[tuple[int, Adapter]] = []

    def keep(self, step: int, adapter: Callable[[], Adapter]) -> None:
        """Called after each step; `adapter` gives the adapter as it is now, on the CPU."""
        if self._wanted and step % EVERY == 0:
            self._copies = [*self._copies[-1:], (step, adapter())]

    def best(
        self,
        reached: Reached,
        batch_size: int,
        holdout_loss: Callable[[Adapter], float | None],
        tell: Observer,
    ) -> Adapter | None:
        """The newest copy from before the run went wrong that is better than all that was measured, and than nothing;
        its loss is told and taken in. None where there is none, or the run was asked to stop."""
        start = math.inf if reached.holdout_start is None else reached.holdout_start
        known = {step for step, _ in reached.holdout_losses}
        end = reached.well_until(batch_size)
        for step, adapter in reversed(self._copies):
            if step in known or step > end:
                continue
            loss = holdout_loss(adapter)
            if loss is None:
                return None
            if loss < min(start, reached.lowest()):
                reached.looked(step, loss)
                tell.metrics(step, {"holdout_loss": loss})
                return adapter
        return None
