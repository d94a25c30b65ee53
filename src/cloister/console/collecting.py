"""The garbage collector's passes over everything, each as long as several paints: made while nobody types. What
outlives one is not looked through again but now and then.

It knows neither keys nor screens.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

REST_S = 1.0
"""Without a key for so long, nobody waits for one just now."""
LONG_REST_S = 30.0
WHOLE_S = 600.0
"""What outlived a pass is looked through again so often, in a long rest."""
DUE = 10
"""So many short passes make a long one due: Python's own number."""
OVERDUE = 100
"""And so many where nobody rests."""


class Collector:
    """`clock` tells seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._typed_at = self._whole_at = clock()

    def begin(self) -> None:
        """From now on. What is loaded by now stays."""
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, OVERDUE)
        gc.freeze()

    def typed(self) -> None:
        """A key came."""
        self._typed_at = self._clock()

    def look(self) -> None:
        """Make the pass that is due, if this is the time for it."""
        now = self._clock()
        rest = now - self._typed_at
        if rest < REST_S:
            return
        whole = not gc.get_freeze_count() or (rest >= LONG_REST_S and now - self._whole_at >= WHOLE_S)
        if whole:
            self._whole_at = now
            gc.unfreeze()
        elif gc.get_count()[2] < DUE:
            return
        gc.collect()
        gc.freeze()
