"""The processes that one has made: this one those of earlier tests too, so a test asks before and after."""

from __future__ import annotations

import os
from pathlib import Path


def children() -> set[int]:
    """Of all threads of this process: those that run, and those that have ended and were not waited for."""
    return children_of(os.getpid())


def children_of(pid: int) -> set[int]:
    """The same of another process."""
    found: set[int] = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            found.update(map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()))
        except FileNotFoundError:
            continue  # the thread has ended
    return found
