"""Where sealed bodies lie: two small databases in one folder, one of ciphertexts and one of wrapped keys.

Two accounts may use it: who keeps bodies adds, who answers for them fetches and shreds. Shredding deletes
the wrapped key with secure deletion, then the ciphertext; a copy of the ciphertexts alone opens nothing.
It opens nothing itself.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cloister import modes
from cloister.errors import CloisterError, Conflict, InvalidInput, NotFound, OutOfSpace, Tampered
from cloister.vault.bodies import SealedBody
from cloister.vault.files import make_folders, sync_folder

SEALED_NAME = "sealed.db"
CAPSULES_NAME = "capsules.db"
_SEALED = """
CREATE TABLE IF NOT EXISTS bodies (
    commitment BLOB PRIMARY KEY, day TEXT NOT NULL, kind TEXT NOT NULL, size INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS bodies_by_day ON bodies (day);
"""
_CAPSULES = """
CREATE TABLE IF NOT EXISTS capsules (
    commitment BLOB PRIMARY KEY, day TEXT NOT NULL, capsule BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS capsules_by_day ON capsules (day);
CREATE TABLE IF NOT EXISTS shredded (commitment BLOB PRIMARY KEY, note TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""


class Kept(NamedTuple):
    """A body that can still be opened."""

    kind: str
    size: int
    sealed: bytes
    capsule: bytes


class BodyStore:
    """The folder's two databases. Safe for threads. Every change is durable when its call returns.

    Errors: OutOfSpace on a full disk; Tampered, naming the file, for a damaged one; CloisterError where it
    cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        make_folders(folder)
        self._sealed = self._open(folder / SEALED_NAME, _SEALED)
        try:
            self._capsules = self._open(folder / CAPSULES_NAME, _CAPSULES)
        except BaseException:
            self._sealed.close()
            raise
        sync_folder(folder)

    def keep(self, bodies: Sequence[SealedBody], day: str) -> None:
        """Keep bodies of one day (ISO 8601), the ciphertexts first."""
        with self._lock:
            with self._change(self._sealed, SEALED_NAME) as run:
                for body in bodies:
                    run(
                        "INSERT INTO bodies VALUES (?, ?, ?, ?, ?)",
                        (body.commitment, day, body.kind, body.size, body.sealed),
                    )
            with self._change(self._capsules, CAPSULES_NAME) as run:
                for body in bodies:
                    run("INSERT INTO capsules VALUES (?, ?, ?)", (body.commitment, day, body.capsule))

    def fetch(self, commitment: bytes) -> Kept:
        """A body's ciphertext and wrapped key. NotFound where none was kept, or it was shredded."""
        where = commitment.hex()
        capsule = self._one("capsules", "SELECT capsule FROM capsules WHERE commitment = ?", commitment)
        if capsule is None:
            note = self._one("capsules", "SELECT note FROM shredded WHERE commitment = ?", commitment)
            if note is not None:
                raise NotFound(f"this body was shredded: {note[0]}", where=where)
            raise NotFound("no body is kept for this entry", where=where)
        body = self._one("bodies", "SELECT kind, size, sealed FROM bodies WHERE commitment = ?", commitment)
        if body is None:
            raise Tampered("the body is missing, and its key is not", where=str(self.folder / SEALED_NAME))
        return Kept(body[0], body[1], body[2], capsule[0])

    def count(self, *, before: str | None = None) -> int:
        """How many bodies can still be opened, of days before that one."""
        row = self._one("capsules", "SELECT count(*) FROM capsules WHERE day < ?", before or "9999")
        return int(row[0]) if row else 0

    def shred(self, note: str, *, commitment: bytes | None = None, before: str | None = None) -> int:
        """Destroy one body, or those of all days before one; returns how many. `note` stays in their place.

        Asked again after a crash, it finishes.
        """
        if (commitment is None) == (before is None):
            raise InvalidInput("name one body, or a day")
        column, value = ("commitment", commitment) if commitment is not None else ("day", before)
        where = "commitment = ?" if column == "commitment" else "day < ?"
        with self._lock:
            with self._change(self._capsules, CAPSULES_NAME) as run:
                run(
                    f"INSERT OR IGNORE INTO shredded SELECT commitment, ? FROM capsules WHERE {where}",  # noqa: S608
                    (note, value),
                )
                count: int = run(f"DELETE FROM capsules WHERE {where}", (value,))  # noqa: S608
            self._scrub_journal(self._capsules, CAPSULES_NAME)
            with self._change(self._sealed, SEALED_NAME) as run:
                run(f"DELETE FROM bodies WHERE {where}", (value,))  # noqa: S608
            with self._faults(SEALED_NAME):
                self._sealed.executescript("PRAGMA incremental_vacuum;")
            self._scrub_journal(self._sealed, SEALED_NAME)
        return count

    def count_of(self, commitments: Iterable[bytes]) -> int:
        """How many of these can still be opened."""
        sql = "SELECT count(*) FROM capsules WHERE commitment = ?"
        return sum(int(row[0]) for one in commitments if (row := self._one("capsules", sql, one)))

    def days_of(self, commitments: Iterable[bytes], before: str) -> Iterator[str]:
        """The day of each of these that can still be opened and is of a day before that one."""
        sql = "SELECT day FROM capsules WHERE commitment = ?"
        for one in commitments:
            row = self._one("capsules", sql, one)
            if row is not None and row[0] < before:
                yield row[0]

    def shred_these(self, note: str, commitments: Iterable[bytes]) -> int:
        """Destroy these bodies, all or none of their keys; returns how many there were."""
        wanted = list(commitments)
        count = 0
        with self._lock:
            with self._change(self._capsules, CAPSULES_NAME) as run:
                for one in wanted:
                    if run("DELETE FROM capsules WHERE commitment = ?", (one,)):
                        count += 1
                        run("INSERT OR IGNORE INTO shredded VALUES (?, ?)", (one, note))
            self._scrub_journal(self._capsules, CAPSULES_NAME)
            with self._change(self._sealed, SEALED_NAME) as run:
                for one in wanted:
                    run("DELETE FROM bodies WHERE commitment = ?", (one,))
            with self._faults(SEALED_NAME):
                self._sealed.executescript("PRAGMA incremental_vacuum;")
            self._scrub_journal(self._sealed, SEALED_NAME)
        return count

    def capsules_snapshot(self) -> bytes:
        """The wrapped keys as the bytes of a file, without what was deleted. In memory only."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            with self._lock, self._faults(CAPSULES_NAME):
                self._capsules.backup(copy)
            copy.execute("VACUUM")
            return copy.serialize()

    def copy_sealed(self, path: Path) -> None:
        """The ciphertexts, copied to a file; without what was deleted."""
        with closing(sqlite3.connect(path)) as copy, self._lock, self._faults(SEALED_NAME):
            self._sealed.backup(copy)

    def close(self) -> None:
        with self._lock:
            self._sealed.close()
            self._capsules.close()

    # --- the databases ------------------------------------------------------------------------

    def _open(self, path: Path, tables: str) -> sqlite3.Connection:
        with self._faults(path.name):
            with suppress(
                FileExistsError
            ):  # closing a file that is there would end the locks of all who use it here
                os.close(modes.create(path, os.O_RDWR | os.O_EXCL | os.O_NOFOLLOW, writable=True))
            if path.is_symlink():
                raise Tampered("a symbolic link lies where a file belongs", where=str(path))
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
            # The journal stays, so that the old pages in it can be overwritten in place.
            for pragma in (
                "trusted_schema = OFF",
                "cell_size_check = ON",
                "secure_delete = ON",
                "auto_vacuum = INCREMENTAL",
                "journal_mode = PERSIST",
                "synchronous = FULL",
                "temp_store = MEMORY",
            ):
                database.execute(f"PRAGMA {pragma}").fetchall()
            try:
                database.executescript(f"BEGIN IMMEDIATE; {tables} COMMIT;")
            except BaseException:
                database.close()
                raise
            return database

    @contextmanager
    def _change(self, database: sqlite3.Connection, name: str) -> Iterator[Any]:
        """A transaction; yields a function that runs a statement and returns how many rows it changed."""
        with self._faults(name):
            database.execute("BEGIN IMMEDIATE")
            try:
                yield lambda sql, values: database.execute(sql, values).rowcount
                database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise

    def _scrub_journal(self, database: sqlite3.Connection, name: str) -> None:
        """Overwrite the old pages in the journal, while no other connection can write one."""
        journal = self.folder / f"{name}-journal"
        with self._change(database, name):
            try:
                descriptor = os.open(journal, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            with os.fdopen(descriptor, "r+b") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                    raise Tampered("something else lies where a file belongs", where=str(journal))
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                file.write(bytes(size))
                file.flush()
                os.fsync(file.fileno())

    def _one(self, which: str, sql: str, value: bytes | str) -> tuple[Any, ...] | None:
        database, name = (
            (self._capsules, CAPSULES_NAME) if which == "capsules" else (self._sealed, SEALED_NAME)
        )
        with self._lock, self._faults(name):
            row: tuple[Any, ...] | None = database.execute(sql, (value,)).fetchone()
            return row

    @contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        where = str(self.folder / name)
        try:
            yield
        except sqlite3.IntegrityError:
            raise Conflict("this body is kept already", where=where) from None
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise OutOfSpace("the disk is full", where=where) from None
            raise CloisterError("the store of bodies cannot be used", where=where) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            raise Tampered("not a store of bodies, or a damaged one", where=where) from None
