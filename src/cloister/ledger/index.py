"""An index beside a log: in which bundles, and where in them, an actor, an action or an object occurs.

It covers full bundles, which never change, and is bound to their hashes in the tree. It is a hint: it
can be deleted at any time and is built again from the log; what it points to is read from the log
and checked. Only someone who writes to this file can make it hide something, and a search without it
shows that.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import msgspec

from cloister.ledger.reading import CheckedReader
from cloister.ledger.terms import Wanted, moment_us, terms_of
from cloister.ledger.tiles import WIDTH

FORMAT = 1
_APPLICATION_ID = 0x434C6978  # "CLix"
_BATCH = 64
_BITS = WIDTH // 8
_NEVER = 1 << 62
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE bundles (
    bundle INTEGER PRIMARY KEY, root BLOB NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE TABLE terms (
    term INTEGER PRIMARY KEY, kind INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE (kind, text)
) STRICT;
CREATE TABLE postings (
    term INTEGER NOT NULL, bundle INTEGER NOT NULL, bits BLOB NOT NULL, PRIMARY KEY (term, bundle)
) STRICT, WITHOUT ROWID;
"""


class IndexFault(Exception):
    """The index cannot be used: it is damaged, another log's, or the disk does not take it."""


class Index:
    """The index of one log in one SQLite file. Safe for threads; one process at a time.

    Every method may raise IndexFault: then search without it, and call `discard`.

    Args:
        path: where it lies; made where it is not there.
        origin: whose log it is for.
    """

    def __init__(self, path: Path, origin: str) -> None:
        self.path = path
        self.origin = origin
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._bundles = 0
        self._bound_to: bytes | None = None

    def bundles(self, reader: CheckedReader) -> int:
        """How many of the reader's bundles are covered, from the first on. Opens and checks it at first."""
        with self._lock:
            self._bind(reader)
            return min(self._bundles, reader.full_bundles)

    def catch_up(self, reader: CheckedReader, *, stop: Callable[[], bool] = lambda: False) -> int:
        """Take in the full bundles that are missing; returns how many. Raises Tampered for a damaged log."""
        taken = 0
        with self._lock:
            self._bind(reader)
        while not stop():
            with self._lock:
                if self._database is None:
                    break
                first = self._bundles
                last = min(first + _BATCH, reader.full_bundles)
                if first >= last:
                    break
                with self._faults():
                    self._take_in(reader, first, last)
                taken += last - first
        return taken

    def positions(self, wanted: Wanted, stop: int) -> Iterator[int]:
        """Where matching entries below `stop` may stand, the newest first."""
        with self._lock, self._faults():
            found = self._bundles_with(wanted)
        for bundle in sorted(found, reverse=True):
            bits = found[bundle]
            for offset in range(WIDTH - 1, -1, -1):
                position = bundle * WIDTH + offset
                if bits >> offset & 1 and position < stop:
                    yield position

    @staticmethod
    def may_differ(wanted: Wanted) -> bool:
        """Whether an entry that the index names may rightly fail: time is kept for bundles, not entries."""
        return wanted.since_us is not None or wanted.until_us is not None

    def discard(self) -> None:
        """Close and delete it. It is built anew when it is asked for again."""
        with self._lock:
            self.close()
            for suffix in ("", "-wal", "-shm", "-journal"):
                with contextlib.suppress(OSError):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._database.close()
            self._database, self._bundles, self._bound_to = None, 0, None

    # --- building ----------------------------------------------------------------------------

    def _take_in(self, reader: CheckedReader, first: int, last: int) -> None:
        assert self._database is not None
        database = self._database
        numbers: dict[tuple[int, str], int] = {}
        database.execute("BEGIN IMMEDIATE")
        try:
            for bundle in range(first, last):
                found: dict[tuple[int, str], int] = {}
                first_us, last_us = _NEVER, -_NEVER
                for offset, data in enumerate(reader.bundle(bundle)):
                    entry = msgspec.json.decode(data)
                    for term in terms_of(entry):
                        found[term] = found.get(term, 0) | 1 << offset
                    moment = moment_us(entry.get("time"))
                    if moment is not None:
                        first_us, last_us = min(first_us, moment), max(last_us, moment)
                digest = 0
                for term, bits in found.items():
                    packed = bits.to_bytes(_BITS, "little")
                    if term not in numbers:
                        numbers[term] = self._number(*term)
                    database.execute("INSERT INTO postings VALUES (?, ?, ?)", (numbers[term], bundle, packed))
                    digest ^= _digest(bundle, *term, packed)
                digest ^= _digest(bundle, first_us, str(last_us), b"span")
                database.execute(
                    "INSERT INTO bundles VALUES (?, ?, ?, ?, ?)",
                    (bundle, reader.bundle_root(bundle), first_us, last_us, digest.to_bytes(16, "big")),
                )
            database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        self._bundles = last
        self._bound_to = reader.bundle_root(last - 1)

    def _number(self, kind: int, text: str) -> int:
        assert self._database is not None
        row = self._database.execute(
            "INSERT INTO terms (kind, text) VALUES (?, ?) "
            "ON CONFLICT (kind, text) DO UPDATE SET text = excluded.text RETURNING term",
            (kind, text),
        ).fetchone()
        return int(row[0])

    # --- asking ------------------------------------------------------------------------------

    def _bundles_with(self, wanted: Wanted) -> dict[int, int]:
        """The bits of each bundle in which every term occurs, within the span of time."""
        assert self._database is not None
        result: dict[int, int] | None = None
        for kind, text in wanted.terms:
            found: dict[int, int] = {}
            for bundle, bits in self._postings(kind, text):
                if type(bundle) is not int or type(bits) is not bytes or len(bits) != _BITS:
                    raise IndexFault("a row is damaged")
                found[bundle] = found.get(bundle, 0) | int.from_bytes(bits, "little")
            if result is None:
                result = found
            else:
                result = {b: bits for b in result.keys() & found if (bits := result[b] & found[b])}
        if wanted.since_us is None and wanted.until_us is None:
            return result or {}
        rows = self._database.execute(
            "SELECT bundle FROM bundles WHERE last_us >= ? AND first_us < ?",
            (
                -_NEVER if wanted.since_us is None else wanted.since_us,
                _NEVER if wanted.until_us is None else wanted.until_us,
            ),
        )
        within = {int(row[0]) for row in rows}
        if result is None:
            return dict.fromkeys(within, (1 << WIDTH) - 1)
        return {bundle: bits for bundle, bits in result.items() if bundle in within}

    def _postings(self, kind: int, text: str) -> Iterator[tuple[object, object]]:
        assert self._database is not None
        select = "SELECT p.bundle, p.bits FROM terms t JOIN postings p USING (term) WHERE t.kind = ? AND "
        if not text.endswith("*"):
            return self._database.execute(select + "t.text = ?", (kind, text))
        begin = text[:-1]
        return self._database.execute(
            select + "t.text >= ? AND substr(t.text, 1, ?) = ?", (kind, begin, len(begin), begin)
        )

    # --- opening -----------------------------------------------------------------------------

    def _bind(self, reader: CheckedReader) -> None:
        """Open it where it is not, and start anew where it is not this log's."""
        for last_try in (False, True):
            try:
                with self._faults():
                    if self._database is None:
                        self._open()
                        self._verify(reader)
                    elif self._bundles and not self._fits(reader):
                        raise IndexFault("it is not of this log")
                return
            except IndexFault:
                self.discard()
                if last_try:
                    raise

    def _fits(self, reader: CheckedReader) -> bool:
        """Whether the newest bundle taken in is the reader's; an older snapshot is answered as it is."""
        last = self._bundles - 1
        return last >= reader.full_bundles or reader.bundle_root(last) == self._bound_to

    def _open(self) -> None:
        fresh = not self.path.exists()
        if fresh:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        self._database = database
        for pragma in ("trusted_schema = OFF", "journal_mode = WAL", "synchronous = NORMAL"):
            database.execute(f"PRAGMA {pragma}").fetchall()
        if fresh:
            database.executescript(
                f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION_ID};"
                f"PRAGMA user_version = {FORMAT}; COMMIT;"
            )
            database.execute("INSERT INTO about VALUES ('origin', ?)", (self.origin,))

    def _verify(self, reader: CheckedReader) -> None:
        """Compare what lies in the file with its own digests and with the log's tree."""
        assert self._database is not None
        database = self._database
        about = [database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")]
        origin = database.execute("SELECT value FROM about WHERE name = 'origin'").fetchone()
        if about != [(_APPLICATION_ID,), (FORMAT,)] or origin != (self.origin,):
            raise IndexFault("it is no index of this log")
        if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise IndexFault("its structure is damaged")
        digests: list[int] = []
        for number, row in enumerate(database.execute("SELECT * FROM bundles ORDER BY bundle")):
            bundle, root, first_us, last_us, digest = row
            if bundle != number or number >= reader.full_bundles or root != reader.bundle_root(bundle):
                raise IndexFault("it is not of this log")
            span = _digest(bundle, first_us, str(last_us), b"span")
            digests.append(int.from_bytes(digest, "big") ^ span)
        rows = database.execute(
            "SELECT t.kind, t.text, p.bundle, p.bits FROM postings p LEFT JOIN terms t USING (term)"
        )
        for kind, text, bundle, bits in rows:
            if type(kind) is not int or type(text) is not str or not 0 <= bundle < len(digests):
                raise IndexFault("a row is damaged")
            digests[bundle] ^= _digest(bundle, kind, text, bits)
        if any(digests):
            raise IndexFault("a row is damaged or missing")
        self._bundles = len(digests)
        self._bound_to = reader.bundle_root(len(digests) - 1) if digests else None

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what SQLite and the disk say into IndexFault."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError, OverflowError, TypeError) as error:
            raise IndexFault(type(error).__name__) from None


def _digest(bundle: int, kind: int, text: str, bits: bytes) -> int:
    data = b"%d %d %d " % (bundle, kind, len(bits)) + bits + text.encode()
    return int.from_bytes(blake2b(data, digest_size=16).digest(), "big")
