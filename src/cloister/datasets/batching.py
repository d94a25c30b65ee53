"""Batches of rows of like length: one epoch's plan as a pure function of lengths, seed and epoch.

Because it is a pure function, a run resumes by asking again and skipping what it has done. Knows
lengths; it does not know rows or tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

GROUP_BATCHES = 50
"""So many batches are sorted by length together: enough that little is padded, few enough that batches
stay random."""


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Positions in `lengths`, each exactly once, in batches of `batch_size` (the last may be smaller).

    Rows are shuffled, sorted by length within groups of `GROUP_BATCHES` batches, cut, and the batches
    shuffled again.
    """
    if batch_size < 1:
        raise ValueError("batch_size must be at least 1")
    order = list(range(len(lengths)))
    generator = random.Random(f"{seed}:{epoch}")  # noqa: S311 - an order of rows, no secret
    generator.shuffle(order)
    group = batch_size * GROUP_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), group):
        members = sorted(order[start : start + group], key=lengths.__getitem__)
        batches += [members[at : at + batch_size] for at in range(0, len(members), batch_size)]
    generator.shuffle(batches)
    return batches
