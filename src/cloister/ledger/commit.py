"""The committer: one thread that makes all waiting appends durable with one write to the journal.

Under load a write carries everything that came in during the one before. Knows nothing of trees
beyond their size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue

from cloister.errors import CloisterError
from cloister.ledger.journal import Journal
from cloister.ledger.merkle import leaf_hash
from cloister.ledger.state import State

_BATCH_BYTES = 1 << 20


class Waiting:
    """An append on its way. The committer sets `index` or `error`, then answers, which calls `done`."""

    __slots__ = ("_done", "answered", "entry", "error", "index", "leaf", "record", "urgent")

    def __init__(self, entry: bytes, urgent: bool, done: Callable[[], object]) -> None:
        self.entry = entry
        self.record = len(entry).to_bytes(2, "big") + entry
        self.leaf = leaf_hash(entry)
        self.urgent = urgent
        self._done = done
        self.answered = False
        self.index = -1
        self.error: CloisterError | None = None

    def answer(self) -> None:
        self.answered = True
        self._done()


class _Order:
    """Something else for the committer to do, between two writes."""

    __slots__ = ("finished", "restart")

    def __init__(self, *, restart: bool) -> None:
        self.restart = restart
        self.finished: Future[None] = Future()


class Committer:
    """Owns the journal, and the thread that writes it."""

    def __init__(self, state: State, journal: Journal) -> None:
        self._state = state
        self._journal = journal
        self._queue: SimpleQueue[Waiting | _Order] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger-committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, waiting: Waiting) -> None:
        """Queue an append; it is answered in every case, perhaps at once."""
        if self._state.failure is not None and not waiting.urgent:
            self._refuse([waiting])
            return
        self._queue.put(waiting)
        if self._state.stopped:  # after the thread's last look at the queue, nobody else would answer
            self._refuse_rest()

    def order_restart(self) -> Future[None]:
        """Have the journal taken up again if it has failed; the future ends with the attempt."""
        order = _Order(restart=True)
        self._queue.put(order)
        if self._state.stopped:
            self._refuse_rest()
        return order.finished

    def stop(self) -> None:
        """Write what waits, then end."""
        self._queue.put(_Order(restart=False))
        self._thread.join()
        with self._state.changed:
            self._state.stopped = True
            self._state.changed.notify_all()
        self._refuse_rest()

    def restart(self) -> None:
        """Take the journal up in a new file that holds all that is durable and not yet in the tree.

        Runs in the committer's thread, or before it starts. Raises OSError.
        """
        with self._state.changed:
            first = self._state.tree.size
            records = [len(entry).to_bytes(2, "big") + entry for entry, _ in self._state.tail]
        self._journal.start(first, records)
        self._state.heal()

    def _run(self) -> None:
        queue = self._queue
        limit = min(_BATCH_BYTES, self._journal.file_bytes // 2)
        while True:
            item = queue.get()
            batch: list[Waiting] = []
            length = 0
            while isinstance(item, Waiting):
                batch.append(item)
                length += len(item.record)
                if length >= limit or not queue.qsize():
                    break
                item = queue.get()
            if batch:
                try:
                    self._commit(batch, length)
                except Exception as error:  # whatever it was, nobody may wait for ever
                    self._state.fail(error, "The journal cannot be written", self._journal.folder)
                    self._refuse(batch)
            if isinstance(item, _Order):
                if item.restart:
                    self._try_restart()
                item.finished.set_result(None)
                if not item.restart:
                    return

    def _try_restart(self) -> None:
        if self._state.failure is not None:
            try:
                self.restart()
            except Exception as error:
                self._state.fail(error, "The journal cannot be taken up again", self._journal.folder)

    def _commit(self, batch: list[Waiting], length: int) -> None:
        """Make a batch durable, or refuse it, and answer."""
        state = self._state
        if state.failure is None:
            first = state.size
            try:
                begun = self._journal.append(first, [waiting.record for waiting in batch], length)
            except OSError as error:
                state.fail(error, "The journal cannot be written", self._journal.folder)
            else:
                self._enter(batch, first, wake=begun)
                for waiting in batch:
                    waiting.answer()
                return
        for waiting in batch:
            if waiting.urgent:
                self._commit_urgent(waiting)
                waiting.answer()
        self._refuse(batch)

    def _refuse(self, batch: Iterable[Waiting]) -> None:
        for waiting in batch:
            if not waiting.answered:
                waiting.error = self._state.unavailable()
                waiting.answer()

    def _commit_urgent(self, waiting: Waiting) -> None:
        first = self._state.size
        emergency = self._journal.emergency
        if emergency is None or not emergency.fits(len(waiting.record)):
            waiting.error = self._state.unavailable("Its emergency space is used up as well.")
            return
        try:
            emergency.append(first, [waiting.record])
        except OSError as error:
            waiting.error = self._state.unavailable(f"Nor can its emergency space be: {error.strerror}.")
        else:
            self._enter([waiting], first, wake=False)

    def _enter(self, batch: list[Waiting], first: int, *, wake: bool) -> None:
        for index, waiting in enumerate(batch, first):
            waiting.index = index
        state = self._state
        with state.changed:
            state.tail.extend([(waiting.entry, waiting.leaf) for waiting in batch])
            if state.integrator_rests or wake:
                state.integrator_rests = False
                state.changed.notify_all()

    def _refuse_rest(self) -> None:
        """Answer what came too late."""
        while self._queue.qsize():
            item = self._queue.get()
            if isinstance(item, Waiting):
                self._refuse([item])
            else:
                item.finished.set_result(None)
