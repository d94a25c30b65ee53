"""The ledger: append, wait until it is durable, then act.

This is the room's front: opening, appending, reading, proofs. The committer makes entries durable,
the integrator moves them into the tree and signs it. The ledger knows nothing of what entries mean.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.errors import Conflict, InvalidInput, NotFound, Tampered
from cloister.ledger import files, merkle
from cloister.ledger.check import load_checked
from cloister.ledger.commit import Committer, Waiting
from cloister.ledger.entry import Entry
from cloister.ledger.export import export
from cloister.ledger.integrate import Integrator
from cloister.ledger.journal import Journal
from cloister.ledger.lock import take_lock
from cloister.ledger.note import NoteError, TreeHead, VerifierKey, check_origin, check_signature, sign_head
from cloister.ledger.reading import Snapshot
from cloister.ledger.state import Settings, State, cannot, is_out_of_space
from cloister.ledger.tiles import WIDTH, TileStore, Tree

DEFAULTS = Settings()


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """One log in one folder. Safe for threads; one writer at a time (`Conflict` for a second)."""

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        origin: str,
        signer: Ed25519PrivateKey | None,
        clock: Callable[[], datetime] = _now,
        settings: Settings = DEFAULTS,
    ) -> Ledger:
        """Open or create the log, and enter what its journal holds.

        Where only disk space is missing, the ledger opens with `failure` set, takes urgent entries, and
        recovers by itself. `clock` dates failures only: an entry brings its own time.

        Raises:
            Conflict: another writer has it open, or it is the log of another origin or key.
            Tampered: a file is damaged; `where` names it.
            LedgerUnavailable: it cannot be written at all.
        """
        return cls(State(Path(root), origin, settings, clock), signer)

    def __init__(self, state: State, signer: Ed25519PrivateKey | None) -> None:
        check_origin(state.origin)
        settings = state.settings
        self.root = state.root
        self.origin = state.origin
        self._state = state
        self._store = TileStore(self.root)
        self._journal = Journal(
            self.root / "journal",
            self.origin,
            file_bytes=settings.journal_bytes,
            emergency_bytes=settings.emergency_bytes,
        )
        self._committer = Committer(state, self._journal)
        self._integrator = Integrator(state, self._store, self._journal, self._committer)
        self._lock = take_lock(self.root, self._journal.folder)
        try:
            self._load()
            if signer is not None:
                self._adopt(signer)
                state.signer = signer
        except BaseException:
            self._let_go()
            raise
        self._committer.start()
        self._integrator.start()

    # --- appending ---------------------------------------------------------------------------

    def append(self, entry: Entry, *, urgent: bool = False) -> int:
        """Enter it, wait until it is durable, and return its index.

        An `urgent` entry (for what only takes away: stop, revoke, lock) goes into reserved space when
        the ledger has failed.

        Raises:
            LedgerUnavailable: it is not recorded; `failure` says why.
            InvalidInput: the entry has no canonical form or is too long.
        """
        gate = threading.Lock()
        gate.acquire()
        waiting = Waiting(entry.canonical(), urgent, gate.release)
        self._committer.take(waiting)
        gate.acquire()
        if waiting.error is not None:
            raise waiting.error
        return waiting.index

    def submit(self, entry: Entry, *, urgent: bool = False) -> Future[int]:
        """`append` without waiting: the future gives the index once the entry is durable.

        The future cannot be cancelled. Its callbacks run in the ledger's thread: they must be short.

        Raises:
            InvalidInput: as `append`. LedgerUnavailable comes through the future.
        """
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()

        def done() -> None:
            if waiting.error is not None:
                future.set_exception(waiting.error)
            else:
                future.set_result(waiting.index)

        waiting = Waiting(entry.canonical(), urgent, done)
        self._committer.take(waiting)
        return future

    # --- reading -----------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many entries are durable."""
        return self._state.size

    @property
    def signed_size(self) -> int:
        """How many entries the newest signed tree head covers."""
        head = self._state.head
        return 0 if head is None else head.size

    @property
    def failure(self) -> str | None:
        """Why the ledger takes no entries, or None when it does."""
        failure = self._state.failure
        return None if failure is None else failure.message

    @property
    def vkey(self) -> str:
        """The public key that verifies this log, in C2SP vkey form.

        Raises:
            NotFound: no signer was ever attached.
        """
        signer = self._state.signer
        if signer is not None:
            return str(VerifierKey.of(self.origin, signer))
        try:
            return (self.root / "vkey").read_text().strip()
        except FileNotFoundError:
            raise NotFound("The ledger has no signing key yet.", where=str(self.root)) from None

    def head(self) -> TreeHead:
        """The newest signed tree head; without any, an unsigned head of what is durable.

        `flush()` first makes it cover every entry.
        """
        with self._state.changed:
            if self._state.head is not None:
                return self._state.head
            peaks, size = self._state.tree.peaks.copy(), self._state.tree.size
            leaves = [leaf for _, leaf in self._state.tail]
        for leaf in leaves:
            peaks.push(leaf)
        return TreeHead(size + len(leaves), peaks.root(), None)

    def entry(self, index: int) -> dict[str, Any]:
        """The entry of that index, as a document.

        Raises:
            NotFound: there is none.
            Tampered: the file that holds it is damaged.
        """
        for found in self.entries(index, index + 1):
            return found
        raise NotFound(f"The ledger has no entry {index}.", where=str(self.root))

    def entries(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Entries from `start` up to, not including, `stop` (or the last), as documents."""
        for data in self.raw_entries(start, stop):
            document: dict[str, Any] = msgspec.json.decode(data)
            yield document

    def raw_entries(self, start: int, stop: int) -> Iterator[bytes]:
        """The canonical bytes of the entries from `start` up to, not including, `stop` (or the last)."""
        position = max(start, 0)
        while position < stop:
            with self._state.changed:
                tree = self._state.tree
                waiting = self._state.tail[max(position - tree.size, 0) : max(stop - tree.size, 0)]
            while position < min(stop, tree.size):
                bundle = tree.entries(position // WIDTH)
                first = position % WIDTH
                chosen = bundle[first : first + stop - position]
                position += len(chosen)
                yield from chosen
            if not waiting:
                return
            position += len(waiting)
            yield from (entry for entry, _ in waiting)

    def snapshot(self) -> Snapshot:
        """The log as it is now, for readers that take their time."""
        with self._state.changed:
            tail = tuple(entry for entry, _ in self._state.tail)
            return Snapshot(self._state.tree, tail, self._state.head)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """RFC 6962 audit path of an entry in the tree of the first `size` entries, from the leaf upwards.

        Raises:
            InvalidInput: index or size are out of range.
            Conflict: that many entries are not signed yet, and there is no signer.
        """
        if not 0 <= index < size:
            raise InvalidInput(f"There is no entry {index} in a tree of {size}.", where="inclusion proof")
        return merkle.inclusion_proof(self._tree_of(size).node, index, size)

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """RFC 6962 proof that the tree of `old` entries is a prefix of that of `new`. Raises as above."""
        if not 0 <= old <= new:
            raise InvalidInput(f"A tree of {old} entries precedes none of {new}.", where="consistency proof")
        return merkle.consistency_proof(self._tree_of(new).node, old, new)

    def root_at(self, size: int) -> bytes:
        """The root of the tree of the first `size` entries. Raises as `inclusion_proof`."""
        return merkle.range_hash(self._tree_of(size).node, 0, size)

    def _tree_of(self, size: int) -> Tree:
        if size > self._state.tree.size:
            if size > self.size:
                raise InvalidInput(f"The ledger has no {size} entries.", where=str(self.root))
            self.flush()
        tree = self._state.tree
        if size > tree.size:
            raise Conflict(
                f"Only {tree.size} entries are under a signed tree head.",
                where=str(self.root),
                remedy="Unlock the ledger's signing key first.",
            )
        return tree

    def export(self, dest: Path) -> None:
        """Write a copy that stands on its own into an empty or new folder: tree, unsigned entries, `vkey`.

        Raises:
            Conflict: the folder holds something.
            OSError: it cannot be written.
        """
        export(self, Path(dest))

    # --- signing, recovery, closing ------------------------------------------------------------

    def attach_signer(self, key: Ed25519PrivateKey) -> None:
        """Sign from now on, beginning with everything that is durable.

        Raises:
            Conflict: the log is signed by another key.
            Tampered: the signed tree head is not this key's work.
        """
        self._adopt(key)
        state = self._state
        with state.changed:
            state.signer = key
            state.wanted = state.tree.size + len(state.tail)
            state.changed.notify_all()

    def detach_signer(self) -> None:
        """Sign no more; entries go on being durable."""
        with self._state.changed:
            self._state.signer = None
            self._state.changed.notify_all()

    def flush(self) -> None:
        """Wait until every entry appended before is in the tree and signed. Without a signer, do nothing.

        Raises:
            LedgerUnavailable: the tree cannot be written.
        """
        state = self._state
        with state.changed:
            target = state.tree.size + len(state.tail)
            state.wanted = max(state.wanted, target)
            state.changed.notify_all()
            while state.tree.size < target and state.signer is not None:
                if state.failure is not None or state.stopped:
                    raise state.unavailable()
                state.changed.wait()

    def recover(self) -> None:
        """After a failure whose cause is gone: take the journal up again, urgent entries first.

        Raises:
            LedgerUnavailable: the cause is not gone.
        """
        self._committer.order_restart().result()
        if self._state.failure is not None or self._state.stopped:
            raise self._state.unavailable()

    def close(self) -> None:
        """Finish what waits, sign it, and let go of the folder. May be called twice."""
        with self._state.changed:
            if self._state.closing:
                return
            self._state.closing = True
        self._committer.stop()
        self._integrator.join()
        self._let_go()

    def _let_go(self) -> None:
        try:
            self._journal.close()
        finally:
            os.close(self._lock)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- opening -------------------------------------------------------------------------------

    def _load(self) -> None:
        state, journal = self._state, self._journal
        state.head, state.tree = load_checked(self._store, self.origin, state.settings.checked)
        entries = journal.read(state.tree.size)
        state.tail = [(entry, merkle.leaf_hash(entry)) for entry in entries]
        try:
            journal.open_emergency()
            self._committer.restart()
        except OSError as error:
            if not is_out_of_space(error) or journal.emergency is None:
                raise cannot("The journal cannot be written", error, journal.folder) from error
            state.fail(error, "The journal cannot be taken up again", journal.folder)

    def _adopt(self, signer: Ed25519PrivateKey) -> None:
        """Make sure that the log is this key's. A log without one becomes its log: it signs the empty tree."""
        key = VerifierKey.of(self.origin, signer)
        stored = self.root / "vkey"
        if stored.exists() and stored.read_text().strip() != str(key):
            raise Conflict(
                "The ledger is signed by another key.",
                where=str(stored),
                remedy="Attach the key that it was begun with.",
            )
        head = self._state.head
        if head is not None and head.signed_note is not None:
            try:
                check_signature(head.signed_note, key)
            except NoteError as error:
                raise Tampered(f"The signed tree head: {error}.", where=str(self._store.head)) from None
        touched: set[Path] = set()
        try:
            if head is None:
                head = sign_head(signer, self.origin, 0, merkle.EMPTY_ROOT)
                files.write_file(self._store.head, (head.signed_note or "").encode(), touched)
                self._state.head = head
            if not stored.exists():
                files.write_file(stored, f"{key}\n".encode(), touched)
            files.sync_folders(touched)
        except OSError as error:
            raise cannot("The ledger cannot be signed", error, self.root) from error
