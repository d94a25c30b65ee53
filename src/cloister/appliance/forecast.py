"""When waiting jobs will start, by what runs now and how long its like took before. A pure function; an estimate."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Mapping, Sequence

KEPT = 20
"""How many past jobs of a kind an estimate looks at."""


def typical(durations: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of the last `KEPT` durations by kind, in seconds."""
    return {kind: statistics.median(past[-KEPT:]) for kind, past in durations.items() if past}


def starts(
    waiting: Sequence[str], remaining: Sequence[float | None], places: int, typically: Mapping[str, float]
) -> list[float | None]:
    """Seconds from now until each waiting job starts, in their order.

    Args:
        waiting: the kinds of what waits, the one that starts next first.
        remaining: seconds that each running job still takes, None where that is not known.
        places: how many run at a time.
        typically: how long a job of a kind takes, where that is known.

    Returns:
        one estimate a waiting job; None where everything before it that is known says nothing.
    """
    free = [0.0] * max(0, places - len(remaining)) + sorted(left for left in remaining if left is not None)
    heapq.heapify(free)
    for _ in range(max(0, len(remaining) - places)):  # more run than there are places: those free none
        if free:
            heapq.heappop(free)
    found: list[float | None] = []
    for kind in waiting:
        if not free:
            found.append(None)
            continue
        start = heapq.heappop(free)
        found.append(start)
        if kind in typically:
            heapq.heappush(free, start + typically[kind])
    return found
