"""Shipping logs to one sink: in order, at least once, from a durable cursor, never in a writer's way.

Syslog has no acknowledgement of its own. So the cursor moves only when the receiver's system has
confirmed the bytes and the connection has held for `resend_s` after that; when a connection is lost,
everything since is sent again. What a receiver took and lost later than that is gone for it.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import CloisterError, NotFound
from cloister.ledger import cursor
from cloister.ledger.cursor import Cursor, Position
from cloister.ledger.merkle import leaf_hash
from cloister.ledger.note import TreeHead
from cloister.ledger.ocsf import entry_event, head_event
from cloister.ledger.reading import CheckedReader, Snapshot
from cloister.ledger.sinks import Sink

BATCH = 256
POLL_S = 0.2
YIELD_S = 0.003
"""Left to the ledger's own threads after each full batch."""
SAVE_S = 1.0
HOLD_S = 1.0
"""So long a connection holds before a sink that was down is up again: some accept, and close at once."""
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

Source = Callable[[], Snapshot]


@dataclass(frozen=True, slots=True)
class ShippingStatus:
    """How a sink fares. `down_s` is None while it takes messages; `behind` counts entries not sent yet."""

    behind: int
    sent: int
    down_s: float | None
    problem: str | None
    heads: Mapping[str, tuple[int, float]]
    """Size of the newest signed head that arrived, and when (seconds since 1970), by origin."""


@dataclass(slots=True)
class _Mark:
    """What was on its way when `total` bytes had been sent."""

    total: int
    positions: dict[str, Position]
    heads: dict[str, int]
    confirmed_at: float | None = None


class Shipping:
    """One sink's thread.

    Args:
        name: how the sink is called.
        sink: where messages go.
        logs: where each log's newest snapshot comes from, by origin. It may raise CloisterError.
        path: the cursor's file.
        resend_s: how long sent entries count as not yet safe.
        head_every_s: how often a new signed tree head is sent.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        logs: Mapping[str, Source],
        path: Path,
        *,
        resend_s: float,
        head_every_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._sink = sink
        self._logs = dict(logs)
        self._path = path
        self._resend_s = resend_s
        self._head_every_s = head_every_s
        self._monotonic = monotonic
        self._now = now
        found, self._warning = cursor.load(path)
        self._safe = {origin: found.positions.get(origin, Position()) for origin in self._logs}
        self._sent = dict(self._safe)
        self._checked: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._head_sent: dict[str, tuple[int, float]] = {}
        self._heads: dict[str, tuple[int, float]] = {}
        self._marks: deque[_Mark] = deque()
        self._bytes = 0
        self._count = 0
        self._open = False
        self._opened_at = 0.0
        self._was_lost = found.down_since is not None
        earlier = 0.0 if found.down_since is None else max(0.0, now() - found.down_since)
        self._down_since: float | None = monotonic() - earlier
        """A restart does not begin the time anew in which a sink may be down."""
        self._told_down = found.down_since is not None
        """What the cursor's file says of it."""
        self._problem: str | None = "it has not answered yet"
        self._saved_at = -SAVE_S
        self._unsaved = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ledger-export-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End, with the cursor saved. What is not safe by then is sent again after the next start."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def status(self) -> ShippingStatus:
        down = self._down_since
        return ShippingStatus(
            behind=sum(max(0, size - self._sent[origin].next) for origin, size in self._sizes.items()),
            sent=self._count,
            down_s=None if down is None else self._monotonic() - down,
            problem=self._problem or self._warning,
            heads=dict(self._heads),
        )

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                busy = self._turn()
            except (OSError, CloisterError) as error:
                self._lost(error)
                pause = RETRY_S[min(failures, len(RETRY_S) - 1)]
                failures += 1
            except Exception as error:  # nothing may end the thread unseen
                self._lost(error)
                pause = RETRY_S[-1]
            else:
                failures = 0 if self._down_since is None else failures
                pause = YIELD_S if busy else POLL_S
            self._closing.wait(pause)
        with contextlib.suppress(OSError, CloisterError):
            if self._open:
                self._settle()
        self._save(at_once=True)
        self._sink.close()

    def _turn(self) -> bool:
        """One batch of each log; True where more may be waiting. Raises OSError where the sink fails.

        A log that cannot be read holds no other one up: what tells of it may be in that.
        """
        snapshots, unreadable = self._look()
        if not self._open:
            self._sink.open()
            self._open, self._opened_at = True, self._monotonic()
        else:
            self._sink.check()
        busy = False
        for origin, snapshot in snapshots.items():
            try:
                busy |= self._ship(origin, snapshot)
            except CloisterError as error:
                unreadable = error
        if unreadable is not None:
            self._down_since = self._monotonic() if self._down_since is None else self._down_since
            self._problem, busy = _words(unreadable), False
        elif not self._was_lost or self._holds():
            self._was_lost, self._down_since, self._problem = False, None, None
        self._settle()
        self._save(at_once=self._told_down)
        if unreadable is not None:
            self._closing.wait(RETRY_S[2])
        return busy

    def _holds(self) -> bool:
        """Whether the connection has lasted long enough to believe in."""
        wait = 0.0 if self._sink.durable else min(self._resend_s, HOLD_S)
        return self._monotonic() - self._opened_at >= wait

    def _look(self) -> tuple[dict[str, Snapshot], CloisterError | None]:
        """The logs as they are now, and why one is missing; one that has not begun is left out."""
        found, unreadable = {}, None
        for origin, newest in self._logs.items():
            try:
                found[origin] = newest()
                self._sizes[origin] = found[origin].size
            except NotFound:
                continue
            except CloisterError as error:
                unreadable = error
        return found, unreadable

    def _ship(self, origin: str, snapshot: Snapshot) -> bool:
        """One batch of one log; True where it was a full one."""
        reader = CheckedReader(snapshot)
        self._recognise(origin, reader)
        first = self._sent[origin].next
        entries = list(reader.entries(first, min(first + BATCH, snapshot.size)))
        messages = []
        for index, entry in enumerate(entries, first):
            message = self._sink.render(entry_event(origin, index, entry))
            if self._sink.limit is not None and len(message) > self._sink.limit:
                message = self._sink.render(entry_event(origin, index, entry, whole=False))
            messages.append(message)
        positions = {}
        if entries:
            positions[origin] = Position(first + len(entries), leaf_hash(entries[-1]).hex())
        heads = {}
        head = self._head_due(origin, snapshot, first + len(entries))
        if head is not None:
            messages.append(self._sink.render(head_event(origin, head, int(self._now() * 1_000_000))))
            heads[origin] = head.size
        if not messages:
            return False
        self._sink.send(messages)
        self._sent.update(positions)
        if head is not None:
            self._head_sent[origin] = (head.size, self._monotonic())
        self._count += len(entries)
        self._bytes += sum(map(len, messages))
        self._marks.append(_Mark(self._bytes, positions, heads))
        return len(entries) == BATCH

    def _recognise(self, origin: str, reader: CheckedReader) -> None:
        """Once a start: what was shipped must still be in the log. Else it is another one: from its beginning."""
        if origin in self._checked:
            return
        at = self._safe[origin]
        if at.next:
            last = list(reader.entries(at.next - 1, at.next))
            if not last or leaf_hash(last[0]).hex() != at.leaf:
                self._warning = (
                    f"{origin} is not the log that was exported before: entries are missing or others; "
                    "everything is sent again"
                )
                self._safe[origin] = self._sent[origin] = Position()
        self._checked.add(origin)

    def _head_due(self, origin: str, snapshot: Snapshot, shipped: int) -> TreeHead | None:
        """The newest signed head once its entries are out, at most every so often."""
        head = snapshot.head
        if head is None or head.signed_note is None or not head.size or shipped < head.size:
            return None
        size, at = self._head_sent.get(origin, (0, -self._head_every_s))
        if head.size == size or self._monotonic() - at < self._head_every_s:
            return None
        return head

    # --- what is safe ----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Move the cursor over what the receiver's system has confirmed long enough ago."""
        if not self._marks:
            return
        confirmed = self._bytes - self._sink.unacknowledged()
        moment = self._monotonic()
        for mark in self._marks:
            if mark.confirmed_at is None:
                if mark.total > confirmed:
                    break
                mark.confirmed_at = moment
                for origin, size in mark.heads.items():
                    self._heads[origin] = (size, self._now())
        wait = 0.0 if self._sink.durable else self._resend_s
        while self._marks:
            at = self._marks[0].confirmed_at
            if at is None or moment - at < wait:
                break
            self._safe.update(self._marks.popleft().positions)
            self._unsaved = True

    def _save(self, *, at_once: bool = False) -> None:
        moment = self._monotonic()
        down = self._down_since is not None
        due = self._unsaved or down != self._told_down
        if not due or (not at_once and moment - self._saved_at < SAVE_S):
            return
        self._saved_at = moment
        since = None if self._down_since is None else self._now() - (moment - self._down_since)
        with contextlib.suppress(
            OSError
        ):  # a full disk costs duplicates after a restart, and a new time of grace
            cursor.save(self._path, Cursor(self._safe, since))
            self._unsaved, self._told_down = False, down

    def _lost(self, error: Exception) -> None:
        """The sink has failed: what is not safe will be sent again."""
        if self._down_since is None:
            self._down_since = self._monotonic()
        self._problem = _words(error)
        self._open, self._was_lost = False, True
        self._marks.clear()
        self._bytes = 0
        self._sent = dict(self._safe)
        self._head_sent.clear()
        with contextlib.suppress(OSError):
            self._sink.close()
        self._save()


def _words(error: Exception) -> str:
    """What the system says of it, and nothing of what was sent."""
    if isinstance(error, CloisterError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or type(error).__name__}"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
