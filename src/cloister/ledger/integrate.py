"""The integrator: one thread that moves durable entries into the tree's files and signs its head.

It works a moment after the appends, for many of them at once, and only while a signer is attached.
"""

from __future__ import annotations

import threading
from pathlib import Path

from cloister.ledger import files
from cloister.ledger.commit import Committer
from cloister.ledger.journal import Journal
from cloister.ledger.note import sign_head
from cloister.ledger.state import State
from cloister.ledger.tiles import TileStore


class Integrator:
    """Owns the tree's files, and the thread that writes them."""

    def __init__(self, state: State, store: TileStore, journal: Journal, committer: Committer) -> None:
        self._state = state
        self._store = store
        self._journal = journal
        self._committer = committer
        self._doubtful = True
        """A sync may have failed, here or in the process before: folders that are there may not be on the disk."""
        self._thread = threading.Thread(target=self._run, name="ledger-integrator", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the end, once the committer has stopped: what is durable gets signed first."""
        self._thread.join()

    def _run(self) -> None:
        state, settings = self._state, self._state.settings
        while True:
            with state.changed:
                while not self._has_work():
                    state.integrator_rests = True
                    state.changed.wait()
                state.integrator_rests = False
                if not state.stopped and state.failure is not None:
                    state.changed.wait(settings.retry_s)
                elif not state.stopped and state.wanted <= state.tree.size:
                    state.changed.wait(settings.sign_after_s)
                stopped, failed = state.stopped, state.failure is not None
            if not failed:
                self._step()
            elif not stopped and state.out_of_space:
                self._committer.order_restart().result()
            if stopped:
                return

    def _has_work(self) -> bool:
        state = self._state
        if state.stopped:
            return True
        if state.failure is not None:
            return state.out_of_space
        return bool(state.tail) and state.signer is not None

    def _step(self) -> None:
        """Move what is durable into the tree and sign it."""
        state = self._state
        try:
            if not state.closing:
                self._journal.prepare_spare()
            with state.changed:
                tree, signer, tail = state.tree, state.signer, state.tail[:]
            if signer is None or not tail:
                return
            grown, replaced = tree.grow([entry for entry, _ in tail], [leaf for _, leaf in tail])
            if self._doubtful:
                for folder in [self._store.root, *self._store.folders()]:
                    files.sync_folder(folder)
                self._doubtful = False
            head = sign_head(signer, state.origin, grown.size, grown.root())
            assert head.signed_note is not None
            touched: set[Path] = set()
            files.write_file(self._store.head, head.signed_note.encode(), touched)
            files.sync_folders(touched)
            with state.changed:
                state.tree, state.head = grown, head
                del state.tail[: len(tail)]
                state.changed.notify_all()
            for folder in replaced:
                files.remove_folder(folder)
            self._journal.drop_before(grown.size)
        except Exception as error:
            self._doubtful = True
            where = getattr(error, "filename", None) or self._store.root
            state.fail(error, "The tree cannot be written", Path(where))
