"""What a run tells while it goes on, and to whom: callbacks, and rates over the steps since the last word.

Knows numbers, not where they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["info", "warning"]

_PAGE = 4096


@dataclass(frozen=True)
class Observer:
    """The callbacks of one run; see `recipe.train`."""

    progress: Callable[[str, int, int], None]
    metrics: Callable[[int, dict[str, float]], None]
    notice: Callable[[Level, str], None]
    should_stop: Callable[[], bool]


@dataclass
class Window:
    """Sums over the steps since the last report."""

    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, supervised_tokens: int, seconds: float) -> None:
        """One more step, and how long it took."""
        self.tokens += tokens
        self.supervised_tokens += supervised_tokens
        self.seconds += seconds

    def numbers(self) -> dict[str, float]:
        """Rates, and the resident memory now."""
        seconds = max(self.seconds, 1e-9)
        return {
            "tokens_per_s": self.tokens / seconds,
            "supervised_tokens_per_s": self.supervised_tokens / seconds,
            "rss_mib": rss_mib(),
        }


def rss_mib() -> float:
    """Resident memory of this process in MiB; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 2**20
    except OSError:
        return 0.0
