"""Entries about things taken away, from when they are decided until the ledger has them.

They lie in the state database, so that a kill at any moment loses none; in memory alone where it
cannot be written. It does not know how an entry gets into the ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

import structlog
from sqlalchemy import select

from cloister.appliance.state import OwedRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import OutOfSpace
from cloister.ledger import Entry

log = structlog.get_logger()


@dataclass(frozen=True)
class Debt:
    """One entry. `since` is how many entries the ledger had before it; `number` is None in memory alone."""

    entry: Entry
    since: int
    number: int | None


class Owed:
    """What the ledger is owed, oldest first; `waiting` begins with what an earlier authority left."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        with state.read() as session:
            rows = session.scalars(select(OwedRow).order_by(OwedRow.number)).all()
        self.waiting = [Debt(_entry(row), row.since, row.number) for row in rows]

    def note(self, entry: Entry, since: int, alongside: Callable[[Change], None] | None) -> Debt:
        """Keep an entry until it is settled. `alongside` changes the state in the same commit.

        A debt without a number says that the state could not be written: nothing was changed in it.
        """
        try:
            with self._state.change() as change:
                row = OwedRow(entry=asdict(entry), since=since)
                change.session.add(row)
                change.session.flush()
                number = row.number
                if alongside is not None:
                    alongside(change)
        except OutOfSpace:
            log.error("owed.in-memory", action=entry.action)
            return Debt(entry, since, None)
        return Debt(entry, since, number)

    def keep(self, debt: Debt) -> None:
        """The ledger has refused it: it waits."""
        self.waiting.append(debt)

    def settle(self, debt: Debt) -> None:
        """The ledger has it."""
        if debt in self.waiting:
            self.waiting.remove(debt)
        if debt.number is None:
            return
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            change.session.delete(change.session.get_one(OwedRow, debt.number))
        # What stays for want of space is found in the ledger at the next start.


def _entry(row: OwedRow) -> Entry:
    return Entry(**{**row.entry, "objects": tuple(row.entry["objects"])})
