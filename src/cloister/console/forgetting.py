"""Content that was on the screen, out of what drew it: rich and textual keep what they last measured and styled."""

from __future__ import annotations

import functools
import gc

from cloister.console.collecting import Collector

DRAWING = ("rich", "textual")


def forget_drawn(collector: Collector) -> None:
    """Empty every cache of theirs. What is on the screen now is drawn from its widgets, as before."""
    collector.thaw()  # nobody is told of an object that was frozen; and what held the content is to go, too
    for one in gc.get_objects():
        if isinstance(one, functools._lru_cache_wrapper) and one.__module__.partition(".")[0] in DRAWING:
            one.cache_clear()
