"""One change to the state at a time: rows and the events that tell of them commit together.

Also the ordered event stream that clients follow. It knows rows and numbers, not what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import delete, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cloister.api import STREAM_GAP, STREAM_RESET, Event
from cloister.appliance.state import EventRow, Sessions
from cloister.errors import OutOfSpace

KEPT_EVENTS = 50_000
BATCH = 500
PRUNE_EVERY = 1_000

Clock = Callable[[], datetime]
Read = TypeVar("Read")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Change:
    """An open transaction. `session` is SQLAlchemy's; `event` adds to the stream with the same commit."""

    def __init__(self, session: Session, now: datetime) -> None:
        self.session = session
        self.now = now

    def event(self, kind: str, subject: str | None = None, **data: Any) -> None:
        self.session.add(EventRow(time=self.now, kind=kind, subject=subject, data=data))


class StateStore:
    """The state database, as transactions and as a stream of events."""

    def __init__(self, sessions: Sessions, clock: Clock = utc_now) -> None:
        self._sessions = sessions
        self._clock = clock
        self._news = asyncio.Event()
        self._changes = 0
        self._last_seq = AsOf(self, self._newest)

    def now(self) -> datetime:
        return self._clock()

    @property
    def changes(self) -> int:
        """How many transactions this process has ended: while the number is the same, so is the state."""
        return self._changes

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction that commits at the end of the block, or leaves nothing behind.

        Errors: OutOfSpace where it cannot be written.
        """
        try:
            with self._sessions.begin() as session:
                yield Change(session, self._clock())
                if (self._changes + 1) % PRUNE_EVERY == 0:
                    newest = session.scalar(select(func.max(EventRow.seq))) or 0
                    session.execute(delete(EventRow).where(EventRow.seq <= newest - KEPT_EVENTS))
        except OperationalError as error:
            raise OutOfSpace(
                "the state could not be written", remedy="Make room on the disk of the appliance's home."
            ) from error
        finally:
            self._changes += 1
        self._news.set()
        self._news = asyncio.Event()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._sessions() as session:
            yield session

    def compact(self) -> None:
        """Move what the write-ahead log holds into the database and empty it, where nobody reads just now."""
        with contextlib.suppress(OperationalError), self._sessions() as session:
            session.connection().exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def snapshot(self) -> bytes:
        """The whole database at this moment as the bytes of a file, in memory."""
        with self._sessions() as session, contextlib.closing(sqlite3.connect(":memory:")) as copy:
            source: Any = session.connection().connection.driver_connection
            source.backup(copy)
            data = copy.serialize()
        # Bytes 18 and 19 of the file format say that there is a write-ahead log. Here is none.
        return data[:18] + b"\1\1" + data[20:]

    def last_seq(self) -> int:
        return self._last_seq()

    def _newest(self) -> int:
        with self.read() as session:
            return session.scalar(select(func.max(EventRow.seq))) or 0

    def events_after(self, after: int, limit: int = BATCH) -> list[Event]:
        """At most `limit` events with numbers above `after`, oldest first."""
        with self.read() as session:
            rows = session.scalars(
                select(EventRow).where(EventRow.seq > after).order_by(EventRow.seq).limit(limit)
            )
            return [
                Event(seq=row.seq, time=row.time, kind=row.kind, subject=row.subject, data=row.data)
                for row in rows
            ]

    def _lost(self, kind: str, first: int, last: int) -> Event:
        return Event(seq=last, time=self.now(), kind=kind, data={"from": first, "to": last})

    async def follow(self, after: int, keep_alive_s: float = 5.0) -> AsyncIterator[Event | None]:
        """Every event after that number, for ever; None each `keep_alive_s` seconds without one.

        A reader takes its own time: nothing is held for it, it reads the database where it left off. One that comes
        so late that events are gone, or knows of more than there are, is told so first.
        """
        last = self.last_seq()
        if after > last:
            yield self._lost(STREAM_RESET, after, last)
            after = last
        while True:
            news = self._news
            events = self.events_after(after)
            for event in events:
                if event.seq > after + 1:
                    yield self._lost(STREAM_GAP, after + 1, event.seq - 1)
                after = event.seq
                yield event
            if events:
                continue
            try:
                async with asyncio.timeout(keep_alive_s):
                    await news.wait()
            except TimeoutError:
                yield None


class AsOf(Generic[Read]):
    """What a reading of the state says, read anew once anything in the state has changed.

    The authority alone writes its state and counts its transactions, so this is never behind.
    """

    def __init__(self, state: StateStore, read: Callable[[], Read]) -> None:
        self._state = state
        self._read = read
        self._known: tuple[int, Read] | None = None

    def __call__(self) -> Read:
        mark = self._state.changes  # before it is read: what changes meanwhile is read next time
        if self._known is None or self._known[0] != mark:
            self._known = (mark, self._read())
        return self._known[1]
