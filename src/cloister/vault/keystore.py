"""The key store: one small SQLite file of wrapped keys and unlock slots, with secure deletion.

Stores and deletes; opens nothing. What is deleted is overwritten, in the file and in its journal.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cloister.errors import CloisterError, Conflict, InvalidInput, NotFound, OutOfSpace, Tampered
from cloister.vault.files import make_folders, sync_folder
from cloister.vault.slots import StoredSlot

KEYSTORE_NAME = "keystore.db"
SCHEMA = 1
_APPLICATION_ID = 0x436C6F69  # "Cloi"
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE slots (
    slot_id INTEGER PRIMARY KEY, kind TEXT NOT NULL, document BLOB NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE TABLE keks (version INTEGER PRIMARY KEY, wrapped BLOB NOT NULL) STRICT;
CREATE TABLE data_keys (
    object_id TEXT NOT NULL, version INTEGER NOT NULL, kek INTEGER NOT NULL, wrapped BLOB NOT NULL,
    PRIMARY KEY (object_id, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE destroyed_keys (
    object_id TEXT NOT NULL, version INTEGER NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (object_id, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE named_keys (
    name TEXT NOT NULL, purpose TEXT NOT NULL, kek INTEGER NOT NULL, wrapped BLOB NOT NULL,
    PRIMARY KEY (name, purpose)
) STRICT, WITHOUT ROWID;
"""


class WrappedKey(NamedTuple):
    """A wrapped key and the version of the KEK that wraps it."""

    kek: int
    wrapped: bytes


class KeyStore:
    """The file `keystore.db`. Safe for threads. Every change is durable when its call returns.

    A damaged file raises Tampered, naming it; a full disk OutOfSpace.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._inside = False
        if path.is_symlink() or not path.is_file():
            raise NotFound("no key store", where=str(path), remedy="Run `cloister init` first.")
        self._connect()
        try:
            with self._naming():
                application = self._all("PRAGMA application_id", (int,))
                schema = self._all("PRAGMA user_version", (int,))
                about = self._all("SELECT value FROM about WHERE name = 'vault_id'", (str,))
            if (application, schema) != ([(_APPLICATION_ID,)], [(SCHEMA,)]) or not about:
                raise self._damaged("not a key store of this version")
            self.vault_id: str = about[0][0]
            self._scrub_journal()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, vault_id: str) -> KeyStore:
        """A new, empty key store, 0600. Conflict where there is one."""
        make_folders(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except FileExistsError:
            raise Conflict("there is a key store already", where=str(path)) from None
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.executescript(
                f"PRAGMA secure_delete = ON; PRAGMA synchronous = EXTRA; BEGIN; {_TABLES}"
                f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA}; COMMIT;"
            )
            database.execute("INSERT INTO about VALUES ('vault_id', ?)", (vault_id,))
        finally:
            database.close()
        sync_folder(path.parent)
        return cls(path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is done inside happens together or not at all, and durably."""
        with self._lock:
            if self._inside:
                yield
                return
            with self._naming():
                self._database.execute("BEGIN IMMEDIATE")
                self._inside = True
                try:
                    yield
                    self._database.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._database.execute("ROLLBACK")
                    raise
                finally:
                    self._inside = False

    def slots(self) -> list[StoredSlot]:
        """All unlock slots, unchecked."""
        sql = "SELECT slot_id, kind, document, digest FROM slots ORDER BY slot_id"
        return [StoredSlot(*row) for row in self._all(sql, (int, str, bytes, bytes))]

    def add_slot(self, kind: str, document: bytes) -> int:
        """Keeps a slot; returns its number, which is never used again while a higher one exists."""
        with self.transaction():
            slot_id = 1 + max((slot.slot_id for slot in self.slots()), default=0)
            slot = StoredSlot.of(slot_id, kind, document, self.vault_id)
            self._run("INSERT INTO slots VALUES (?, ?, ?, ?)", slot_id, kind, document, slot.digest)
        return slot_id

    def remove_slot(self, slot_id: int) -> None:
        """Deletes a slot. Conflict where no undamaged one would remain."""
        with self.transaction():
            others = [slot for slot in self.slots() if slot.slot_id != slot_id]
            if not any(slot.intact(self.vault_id) for slot in others):
                raise Conflict("the last unlock slot cannot be removed", remedy="Add another one first.")
            if not self._run("DELETE FROM slots WHERE slot_id = ?", slot_id):
                raise NotFound(f"no unlock slot {slot_id}")
        self.purge()

    def keks(self) -> dict[int, bytes]:
        """Wrapped KEKs by version."""
        return dict(self._all("SELECT version, wrapped FROM keks ORDER BY version", (int, bytes)))

    def add_kek(self, version: int, wrapped: bytes) -> None:
        """Keeps a wrapped KEK."""
        with self.transaction():
            self._run("INSERT INTO keks VALUES (?, ?)", version, wrapped)

    def drop_keks_below(self, newest: int) -> tuple[int, ...]:
        """Deletes the KEKs that nothing needs any more, for good. Conflict where a key is wrapped by one."""
        with self.transaction():
            data, named = self.keys_below(newest, 1)
            if data or named:
                raise Conflict("an older key-encryption key is still needed", where=str(self.path))
            old = tuple(version for version in self.keks() if version < newest)
            self._run("DELETE FROM keks WHERE version < ?", newest)
        self.purge()
        return old

    def replace_root(
        self, kept: int, kind: str, document: bytes, keks: Mapping[int, bytes]
    ) -> tuple[int, ...]:
        """Puts these KEKs and this one slot in the place of all; returns the slots that ended."""
        with self.transaction():
            ended = tuple(slot.slot_id for slot in self.slots() if slot.slot_id != kept)
            if keks.keys() != self.keks().keys():
                raise Conflict("the key-encryption keys have changed meanwhile", where=str(self.path))
            slot = StoredSlot.of(kept, kind, document, self.vault_id)
            self._run("DELETE FROM slots")
            self._run("INSERT INTO slots VALUES (?, ?, ?, ?)", kept, kind, document, slot.digest)
            for version, wrapped in keks.items():
                self._run("UPDATE keks SET wrapped = ? WHERE version = ?", wrapped, version)
        self.purge()
        return ended

    def keys_below(
        self, newest: int, limit: int
    ) -> tuple[list[tuple[str, int, WrappedKey]], list[tuple[str, str, WrappedKey]]]:
        """Some data keys and named keys that a KEK older than `newest` wraps, at most `limit` of each."""
        data = self._all(
            "SELECT object_id, version, kek, wrapped FROM data_keys WHERE kek < ? LIMIT ?",
            (str, int, int, bytes),
            newest,
            limit,
        )
        named = self._all(
            "SELECT name, purpose, kek, wrapped FROM named_keys WHERE kek < ? LIMIT ?",
            (str, str, int, bytes),
            newest,
            limit,
        )
        return (
            [(object_id, version, WrappedKey(kek, wrapped)) for object_id, version, kek, wrapped in data],
            [(name, purpose, WrappedKey(kek, wrapped)) for name, purpose, kek, wrapped in named],
        )

    def replace_data_key(self, object_id: str, version: int, key: WrappedKey) -> None:
        """Puts the same data key, wrapped anew, in its place."""
        sql = "UPDATE data_keys SET kek = ?, wrapped = ? WHERE object_id = ? AND version = ?"
        self._run(sql, key.kek, key.wrapped, object_id, version)

    def replace_named_key(self, name: str, purpose: str, key: WrappedKey) -> None:
        """Puts the same named key, wrapped anew, in its place."""
        sql = "UPDATE named_keys SET kek = ?, wrapped = ? WHERE name = ? AND purpose = ?"
        self._run(sql, key.kek, key.wrapped, name, purpose)

    def data_key(self, object_id: str, version: int) -> WrappedKey | None:
        """The wrapped data key of an object version."""
        sql = "SELECT kek, wrapped FROM data_keys WHERE object_id = ? AND version = ?"
        return self._wrapped(sql, object_id, version)

    def data_keys(self) -> list[tuple[str, int, WrappedKey]]:
        """All wrapped data keys with their object's id and version."""
        rows = self._all("SELECT object_id, version, kek, wrapped FROM data_keys", (str, int, int, bytes))
        return [(object_id, version, WrappedKey(kek, wrapped)) for object_id, version, kek, wrapped in rows]

    def add_data_key(self, object_id: str, version: int, key: WrappedKey) -> None:
        """Keeps a wrapped data key. Conflict where there is or was one."""
        with self.transaction():
            if self.destroyed_note(object_id, version) is not None or self.data_key(object_id, version):
                raise Conflict(f"version {version} of this object has or had a data key", where=object_id)
            self._run("INSERT INTO data_keys VALUES (?, ?, ?, ?)", object_id, version, key.kek, key.wrapped)

    def destroy_data_key(self, object_id: str, version: int, note: str) -> bool:
        """Deletes a wrapped data key for good and keeps `note` in its place. False where it was gone.

        Asked again after a crash, it makes sure of the journal.
        """
        with self.transaction():
            sql = "DELETE FROM data_keys WHERE object_id = ? AND version = ?"
            there = self._run(sql, object_id, version) > 0
            if there:
                self._run("INSERT INTO destroyed_keys VALUES (?, ?, ?)", object_id, version, note)
            elif self.destroyed_note(object_id, version) is None:
                raise NotFound(f"no data key for version {version}", where=object_id)
        self._scrub_journal()
        return there

    def destroy_data_keys(self, objects: Iterable[tuple[str, int]], note: str) -> int:
        """Deletes the wrapped data keys of these object versions for good, all or none of them.

        `note` is kept in the place of each, also where there never was a key: none can be made there.
        Returns how many there were. Asked again after a crash, it makes sure of the journal.
        """
        destroyed = 0
        with self.transaction():
            for object_id, version in objects:
                sql = "DELETE FROM data_keys WHERE object_id = ? AND version = ?"
                destroyed += self._run(sql, object_id, version)
                self._run("INSERT OR IGNORE INTO destroyed_keys VALUES (?, ?, ?)", object_id, version, note)
        self._scrub_journal()
        return destroyed

    def purge(self) -> None:
        """Writes the file anew, so that no page keeps a copy of what was deleted or moved, and drops caches."""
        with self._lock:
            self._run("VACUUM")
            self._scrub_journal()
            self._run("PRAGMA shrink_memory")

    def holds_bytes(self, wanted: Iterable[bytes]) -> bool:
        """Whether any of these lies anywhere in the file or in its journal, free pages included."""
        found = False
        with self._lock:  # no transaction: to close the file ends the locks of this process on it
            for path in (self.path, self.path.with_name(self.path.name + "-journal")):
                data = path.read_bytes() if path.exists() else b""
                found = found or any(piece in data for piece in wanted)
        return found

    def snapshot(self) -> bytes:
        """The whole key store at this moment as the bytes of a file, without what was deleted. Memory only."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            with self._lock, self._naming():
                self._database.backup(copy)
            copy.execute("VACUUM")
            return copy.serialize()

    def destroyed_note(self, object_id: str, version: int) -> str | None:
        """What was said when that data key was destroyed; None where none was."""
        sql = "SELECT note FROM destroyed_keys WHERE object_id = ? AND version = ?"
        rows = self._all(sql, (str,), object_id, version)
        return rows[0][0] if rows else None

    def named_key(self, name: str, purpose: str) -> WrappedKey | None:
        """The wrapped key of that name and purpose."""
        return self._wrapped(
            "SELECT kek, wrapped FROM named_keys WHERE name = ? AND purpose = ?", name, purpose
        )

    def named_keys(self) -> list[tuple[str, str, WrappedKey]]:
        """All wrapped named keys with name and purpose."""
        rows = self._all("SELECT name, purpose, kek, wrapped FROM named_keys", (str, str, int, bytes))
        return [(name, purpose, WrappedKey(kek, wrapped)) for name, purpose, kek, wrapped in rows]

    def add_named_key(self, name: str, purpose: str, key: WrappedKey) -> WrappedKey:
        """Keeps a wrapped key unless there is one of this name and purpose; returns the one kept."""
        with self.transaction():
            kept = self.named_key(name, purpose)
            if kept is None:
                self._run("INSERT INTO named_keys VALUES (?, ?, ?, ?)", name, purpose, key.kek, key.wrapped)
                kept = key
        return kept

    def integrity(self) -> None:
        """Raises Tampered where SQLite finds the file's structure damaged."""
        if self._all("PRAGMA integrity_check(1)", (str,)) != [("ok",)]:
            raise self._damaged("its structure is damaged")

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _connect(self) -> None:
        if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
            raise InvalidInput("others may read the key store", where=str(self.path), remedy="chmod 600 it.")
        with self._naming():
            self._database = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=10.0
            )
            # The journal stays, so that its old pages can be overwritten in place.
            for pragma in (
                "trusted_schema = OFF",
                "cell_size_check = ON",
                "secure_delete = ON",
                "journal_mode = PERSIST",
                "synchronous = EXTRA",
                "temp_store = MEMORY",
            ):
                self._database.execute(f"PRAGMA {pragma}").fetchall()

    def _scrub_journal(self) -> None:
        """Overwrites the old pages in the rollback journal, while no other connection can write one."""
        journal = self.path.with_name(self.path.name + "-journal")
        with self.transaction():
            if not journal.exists():
                return
            with journal.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                file.write(bytes(size))
                file.flush()
                os.fsync(file.fileno())

    def _run(self, sql: str, *values: str | int | bytes) -> int:
        with self._lock, self._naming():
            return self._database.execute(sql, values).rowcount

    def _all(self, sql: str, kinds: tuple[type, ...], *values: str | int | bytes) -> list[tuple[Any, ...]]:
        """Rows whose columns are of these types, or Tampered."""
        with self._lock, self._naming():
            rows: list[tuple[Any, ...]] = self._database.execute(sql, values).fetchall()
        if any(type(value) is not kind for row in rows for value, kind in zip(row, kinds, strict=True)):
            raise self._damaged("a row is damaged")
        return rows

    def _wrapped(self, sql: str, *values: str | int) -> WrappedKey | None:
        rows = self._all(sql, (int, bytes), *values)
        return WrappedKey(*rows[0]) if rows else None

    def _damaged(self, what: str) -> Tampered:
        return Tampered(what, where=str(self.path), remedy="Restore the key store from a backup.")

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise Conflict("this key exists already", where=str(self.path)) from None
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise OutOfSpace("the disk is full", where=str(self.path)) from None
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Conflict("another process holds the key store", where=str(self.path)) from None
            if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR):
                raise self._damaged("it cannot be read") from None
            raise CloisterError("the key store cannot be used", where=str(self.path)) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            raise self._damaged("not a key store, or a damaged one") from None
