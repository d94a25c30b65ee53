"""The garbage collector's passes over everything, each as long as several paints: made while nobody types. What
outlives one is not looked through again but now and then.

It knows neither keys nor screens.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

REST_S = 0.15
"""Without a key for so long, none comes just now."""
LONG_REST_S = 5.0
DUE = 5
"""So many short passes make a long one due: of some milliseconds, as what outlives it is not looked through again."""
OVERDUE = 30
"""And so many where nobody rests."""
WHOLE = 50
"""So many long passes make one due over what outlived them, too."""


class Collector:
    """`clock` tells seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._typed_at = clock()
        self._passes = 0
        self._thawed = False

    def begin(self) -> None:
        """From now on. What is loaded by now stays."""
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, OVERDUE)
        gc.freeze()

    def typed(self) -> None:
        """A key came."""
        self._typed_at = self._clock()

    def thaw(self) -> None:
        """What outlived passes counts as new: the next one, in the next rest, is over all of it."""
        gc.unfreeze()
        self._thawed = True

    def look(self) -> None:
        """Make the pass that is due, if this is the time for it."""
        rest = self._clock() - self._typed_at
        if rest < REST_S:
            return
        if rest >= LONG_REST_S and self._passes >= WHOLE:
            self.thaw()
        if self._thawed:
            self._thawed, self._passes = False, 0
        elif gc.get_count()[2] < DUE:
            return
        self._passes += 1
        gc.collect()
        gc.freeze()
