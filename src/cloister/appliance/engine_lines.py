"""Of what an engine says, how much goes into the stream of events: some at once, then a little for as long as it lasts.

The stream keeps a number of events for all; one engine must not fill it. It knows neither engines nor events.
"""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 30
EVERY_S = 10.0
MAX_CHARACTERS = 500


class EngineLines:
    """A bound on the lines of one engine: `BURST` at once, and one more each `EVERY_S` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(BURST)
        self._at = clock()
        self._held_back = 0

    def passes(self) -> int | None:
        """How many were held back before this one, which passes; None where it is held back, too."""
        now = self._clock()
        self._left, self._at = min(float(BURST), self._left + (now - self._at) / EVERY_S), now
        if self._left < 1:
            self._held_back += 1
            return None
        self._left -= 1
        held_back, self._held_back = self._held_back, 0
        return held_back
