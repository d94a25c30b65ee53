"""What nobody tells the console: that an answer does not come, and that the clock was set. It asks nothing itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

SILENT_S = 3.0
"""A question without an answer for so long is told."""
JUMP_S = 30.0
"""A clock that moved so much more or less than time passed was set."""


class Watch:
    """`clock` is the one that people read, `passing` one that nobody sets."""

    def __init__(self, clock: Callable[[], datetime], passing: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._passing = passing
        self._asked: float | None = None
        self._last = (clock(), passing())

    def asked(self) -> None:
        """A question is on its way."""
        if self._asked is None:
            self._asked = self._passing()

    def answered(self) -> None:
        """It was answered, or failed."""
        self._asked = None

    def silent(self) -> float | None:
        """Seconds without an answer, where they are too many."""
        waited = 0.0 if self._asked is None else self._passing() - self._asked
        return waited if waited >= SILENT_S else None

    def jumped(self) -> tuple[datetime, datetime] | None:
        """Where the clock was set since the last look: what it would be, and what it is. Told once a jump."""
        before, then = self._last
        now, passed = self._clock(), self._passing()
        self._last = (now, passed)
        moved = (now - before).total_seconds() - (passed - then)
        if abs(moved) < JUMP_S:
            return None
        try:
            return (datetime.fromtimestamp(now.timestamp() - moved, now.tzinfo), now)
        except (OverflowError, OSError, ValueError):
            return (before, now)
