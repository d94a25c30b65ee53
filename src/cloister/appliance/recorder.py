"""Append, durable, then act: every action of the authority passes through here before it happens.

Actions that only take away (stop, revoke, cancel, lock) are never held up by a ledger that fails: they
go into the space kept for them, and failing that are owed and entered first when it writes again, by
the next authority too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog

from cloister.appliance.ballast import Ballast
from cloister.appliance.owed import Debt, Owed
from cloister.appliance.peer import Peer
from cloister.appliance.store import Change, Clock, utc_now
from cloister.errors import LedgerUnavailable
from cloister.ledger import Entry, Ledger

log = structlog.get_logger()

BACK = timedelta(seconds=1)
"""A step back of the clock that is larger is noted."""
MEND_EVERY_S = 10.0


class Recorder:
    """Writes the control ledger. `policy` is the digest of the policy set in force, if there is one."""

    def __init__(
        self,
        ledger: Ledger,
        ballast: Ballast,
        owed: Owed,
        *,
        clock: Clock = utc_now,
        policy: str | None = None,
    ) -> None:
        self.ledger = ledger
        self._ballast = ballast
        self._owed = owed
        self._clock = clock
        self.policy = policy
        self._paying = asyncio.Lock()
        self._newest: datetime | None = None

    @property
    def owed(self) -> int:
        """How many entries about things taken away still wait for the ledger to write again."""
        return len(self._owed.waiting)

    def entry(
        self,
        actor: Peer | None,
        action: str,
        *objects: str,
        digests: Mapping[str, str] | None = None,
        decision: str | None = None,
        reason: str | None = None,
        **details: Any,
    ) -> Entry:
        """An entry of this moment. Where the clock has gone back since the one before, it says by how much:
        the order of entries is that of the ledger, whatever their times say."""
        moment = self._clock()
        if self._newest is not None and self._newest - moment > BACK:
            details = {**details, "clock_back_s": round((self._newest - moment).total_seconds(), 3)}
            log.warning("clock.back", seconds=details["clock_back_s"])
        self._newest = moment
        return Entry(
            time=moment.isoformat(timespec="microseconds"),
            actor=actor.account if actor else "cloisterd",
            identified_by=f"SO_PEERCRED uid={actor.uid}" if actor else "self",
            action=action,
            objects=objects,
            digests=dict(digests or {}),
            policy=self.policy,
            decision=decision,
            reason=reason,
            details=details,
        )

    def require(self) -> None:
        """Errors: LedgerUnavailable or OutOfSpace where `record` would refuse now."""
        self._ballast.require()
        if self.ledger.failure is not None:
            raise LedgerUnavailable(
                f"the ledger cannot be written: {self.ledger.failure}",
                remedy="Nothing new starts until it can.",
            )

    async def record(self, actor: Peer | None, action: str, *objects: str, **more: Any) -> int:
        """The entry's index, once it is durable. Errors: LedgerUnavailable or OutOfSpace, and then do not act."""
        self._ballast.require()
        await self._pay()
        return await asyncio.wrap_future(self.ledger.submit(self.entry(actor, action, *objects, **more)))

    async def record_taking_away(
        self,
        actor: Peer | None,
        action: str,
        *objects: str,
        alongside: Callable[[Change], None] | None = None,
        **more: Any,
    ) -> bool:
        """Like `record`, for what must succeed even when the ledger does not.

        `alongside` changes the state in the commit that keeps the entry: however this process ends,
        either both are kept or neither is. Returns whether that commit was made; on a disk without
        any room it is not, and the entry is made all the same.
        """
        entry = self.entry(actor, action, *objects, **more)
        self._ballast.make_room()
        if self.ledger.failure is None:
            await self.enter_owed()
        debt = self._owed.note(entry, self.ledger.size, alongside)
        try:
            await asyncio.wrap_future(self.ledger.submit(entry, urgent=True))
        except LedgerUnavailable as error:
            log.error("ledger.owed", action=action, cause=error.message)
            self._owed.keep(debt)
        else:
            self._owed.settle(debt)
        return debt.number is not None

    async def enter_owed(self) -> None:
        """Enter what is owed, where the ledger takes it."""
        with contextlib.suppress(LedgerUnavailable):
            await self._pay()

    async def keep_mending(self) -> None:
        """Take a ledger that failed up again once the cause is gone, for ever.

        It begins a new file with all that is durable, and trusts nothing that the failed one may hold.
        """
        while True:
            await asyncio.sleep(MEND_EVERY_S)
            if self.ledger.failure is not None:
                with contextlib.suppress(LedgerUnavailable):
                    await asyncio.to_thread(self.ledger.recover)
                    log.info("ledger.recovered")

    async def _pay(self) -> None:
        async with self._paying:  # two at once would enter one twice and drop the next
            while self._owed.waiting:
                debt = self._owed.waiting[0]
                if not await asyncio.to_thread(self._has, debt):
                    await asyncio.wrap_future(self.ledger.submit(debt.entry))
                self._owed.settle(debt)

    def _has(self, debt: Debt) -> bool:
        """Whether the ledger has it after all: the end may have come between its entry and its settling."""
        wanted = debt.entry.canonical()
        return any(data == wanted for data in self.ledger.raw_entries(debt.since, self.ledger.size))
