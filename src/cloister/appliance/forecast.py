"""When waiting jobs will start, by what runs now and how long its like took before. A pure function; an estimate."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KEPT = 20
"""How many past jobs of a kind an estimate looks at."""


def typical(durations: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of the last `KEPT` durations by kind, in seconds."""
    return {kind: statistics.median(past[-KEPT:]) for kind, past in durations.items() if past}


@dataclass(frozen=True)
class Asked:
    """What waits: what kind of job, and how many places it takes at once."""

    kind: str
    places: int = 1


def starts(
    waiting: Sequence[Asked],
    remaining: Sequence[float | None],
    places: int,
    typically: Mapping[str, float],
    out_of_reach: int = 0,
) -> list[float | None]:
    """Seconds from now until each waiting job starts, in their order.

    Args:
        waiting: what waits, the one that starts next first. Nobody overtakes one that waits for several places,
            unless it needs some that are out of reach.
        remaining: seconds until each taken place comes free, None where that is not known.
        places: how many there are.
        typically: how long a job of a kind takes, where that is known.
        out_of_reach: places that no job gets as things are.

    Returns:
        one estimate a waiting job; None where everything before it that is known says nothing.
    """
    free = [0.0] * max(0, places - len(remaining)) + sorted(left for left in remaining if left is not None)
    heapq.heapify(free)
    for _ in range(max(0, len(remaining) - places)):  # more run than there are places: those free none
        if free:
            heapq.heappop(free)
    found: list[float | None] = []
    earliest = 0.0
    for job in waiting:
        if job.places > places - out_of_reach:
            found.append(None)  # passed over until that changes
            continue
        if job.places > len(free):
            free = []  # what is free is kept for it, and nobody knows for how long
            found.append(None)
            continue
        taken = [heapq.heappop(free) for _ in range(job.places)]
        earliest = max(earliest, *taken)
        found.append(earliest)
        if job.kind in typically:
            for _ in taken:
                heapq.heappush(free, earliest + typically[job.kind])
    return found
