"""Questions to a log: who did what to what, and when. Newest first, read from the log itself.

An index only says where to look; every entry that is given was read and compared with the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from cloister.ledger.index import Index, IndexFault
from cloister.ledger.reading import CheckedReader
from cloister.ledger.terms import ACTION, ACTOR, OBJECT, Wanted, moment_us
from cloister.ledger.tiles import WIDTH


@dataclass(frozen=True, slots=True)
class Query:
    """What an entry has to have. A text that ends in `*` is a beginning; `until` and `before` are exclusive."""

    actor: str | None = None
    action: str | None = None
    object: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None

    def matches(self, entry: Mapping[str, Any]) -> bool:
        if self.since is not None or self.until is not None:
            moment = moment_us(entry.get("time"))
            if moment is None:
                return False
            if self.since is not None and moment < to_us(self.since):
                return False
            if self.until is not None and moment >= to_us(self.until):
                return False
        objects = entry.get("objects")
        return (
            _fits(self.actor, entry.get("actor"))
            and _fits(self.action, entry.get("action"))
            and (
                self.object is None
                or (isinstance(objects, list) and any(_fits(self.object, one) for one in objects))
            )
        )

    def wanted(self) -> Wanted:
        """The same question as the index understands it."""
        terms = [(ACTOR, self.actor), (ACTION, self.action), (OBJECT, self.object)]
        return Wanted(
            tuple((kind, text) for kind, text in terms if text is not None),
            to_us(self.since) if self.since is not None else None,
            to_us(self.until) if self.until is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Match:
    """An entry that fits, and where it stands."""

    index: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The newest matches, oldest first. `more`: older ones exist. `read`: bundles that were read for it."""

    matches: tuple[Match, ...]
    more: bool
    read: int
    indexed: bool


def search(reader: CheckedReader, index: Index | None, query: Query, limit: int) -> Answer:
    """The newest `limit` entries that match. Without an index, or where it fails, every entry is read.

    Raises:
        Tampered: a file of the log is damaged.
    """
    if index is not None and not query.wanted().empty:
        try:
            return _Search(reader, query, limit).run(index)
        except IndexFault:
            index.discard()
    return _Search(reader, query, limit).run(None)


class _Search:
    def __init__(self, reader: CheckedReader, query: Query, limit: int) -> None:
        self._reader = reader
        self._query = query
        self._limit = limit
        self._found: list[Match] = []
        self._read = 0

    def run(self, index: Index | None) -> Answer:
        size = self._reader.snapshot.size
        stop = size if self._query.before is None else min(self._query.before, size)
        known = index.bundles(self._reader) if index is not None else 0
        done = self._scan(max(known * WIDTH, 0), stop)
        if index is not None and not done:
            done = self._look(index, min(stop, known * WIDTH))
        matches = tuple(reversed(self._found[: self._limit]))
        return Answer(matches, len(self._found) > self._limit, self._read, index is not None)

    def _scan(self, start: int, stop: int) -> bool:
        """Read [start, stop) from its end, bundle by bundle; True once there are enough."""
        tree_size = self._reader.snapshot.tree.size
        for begin, end in _backwards(start, stop, tree_size):
            entries = list(self._reader.entries(begin, end))
            self._read += 1
            for offset in range(len(entries) - 1, -1, -1):
                if self._query.matches(msgspec.json.decode(entries[offset])):
                    self._found.append(Match(begin + offset, entries[offset]))
                    if len(self._found) > self._limit:
                        return True
        return False

    def _look(self, index: Index, stop: int) -> bool:
        """Read only where the index says."""
        bundle, entries = -1, list[bytes]()
        for position in index.positions(self._query.wanted(), stop):
            if position // WIDTH != bundle:
                bundle = position // WIDTH
                entries = self._reader.bundle(bundle)
                self._read += 1
            entry = entries[position % WIDTH]
            document = msgspec.json.decode(entry)
            if self._query.matches(document):
                self._found.append(Match(position, entry))
                if len(self._found) > self._limit:
                    return True
            elif not index.may_differ(self._query.wanted()):
                raise IndexFault("it names an entry that does not match")
        return False


def _backwards(start: int, stop: int, tree_size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) in pieces that end at bundle borders, the last piece first."""
    while stop > start:
        begin = max(start, (stop - 1) // WIDTH * WIDTH)
        if begin < tree_size < stop:
            begin = tree_size
        yield begin, stop
        stop = begin


def _fits(wanted: str | None, found: object) -> bool:
    if wanted is None:
        return True
    if not isinstance(found, str):
        return False
    return found.startswith(wanted[:-1]) if wanted.endswith("*") else found == wanted


def to_us(moment: datetime) -> int:
    """Microseconds since 1970; a moment without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
