"""What kinds of personal data are told apart, and what is said of one place in a text. Knows no text."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from typing import get_args

from cloister.api import PersonalType as PersonalType

TYPES: tuple[PersonalType, ...] = get_args(PersonalType)


@dataclass(frozen=True, slots=True)
class Finding:
    """Characters `start` to `end` (exclusive) of a text. `form` is the finer kind where check digits depend on it
    (`nhs`, `es_nif`). Of two that overlap the one of the higher `score` stands, else the longer."""

    type: PersonalType
    start: int
    end: int
    score: float = 1.0
    form: str = ""


def settled(findings: list[Finding]) -> list[Finding]:
    """Findings that do not overlap, in order."""
    kept: list[Finding] = []
    starts: list[int] = []
    for one in sorted(findings, key=lambda f: (-f.score, f.start - f.end, f.start)):
        at = bisect(starts, one.start)
        if (at == 0 or kept[at - 1].end <= one.start) and (at == len(kept) or one.end <= starts[at]):
            kept.insert(at, one)
            starts.insert(at, one.start)
    return kept
