"""A finding of `cloister doctor`: what was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `bad` keeps confidential work from starting, or breaks a promise."""

    check: str
    state: Literal["good", "warn", "bad"]
    finding: str
    remedy: str | None = None
