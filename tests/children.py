"""The processes that this one has made: those of earlier tests too, so a test asks before and after."""

from __future__ import annotations

import os
from pathlib import Path


def children() -> set[int]:
    """Of all threads of this process: those that run, and those that have ended and were not waited for."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
        except FileNotFoundError:
            continue  # the thread has ended
    return found
