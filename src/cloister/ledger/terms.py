"""What of an entry can be searched for: its actor, its action, its objects and its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

ACTOR, ACTION, OBJECT = 0, 1, 2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """(kind, text) pairs that must all hold, and a span of time in microseconds since 1970."""

    terms: tuple[tuple[int, str], ...]
    since_us: int | None
    until_us: int | None

    @property
    def empty(self) -> bool:
        return not self.terms and self.since_us is None and self.until_us is None


def terms_of(entry: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The (kind, text) pairs of an entry."""
    for kind, name in ((ACTOR, "actor"), (ACTION, "action")):
        text = entry.get(name)
        if isinstance(text, str):
            yield kind, text
    objects = entry.get("objects")
    if isinstance(objects, list):
        for text in objects:
            if isinstance(text, str):
                yield OBJECT, text


def moment_us(text: object) -> int | None:
    """An entry's time in microseconds since 1970; None for what is no time."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND
