"""Append, durable, then act: every action of the authority passes through here before it happens.

Actions that only take away (stop, revoke, cancel, lock) are never held up by a ledger that fails: they
go into the space kept for them, and failing that are owed and entered first when it writes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from cloister.appliance.ballast import Ballast
from cloister.appliance.peer import Peer
from cloister.appliance.store import Clock, utc_now
from cloister.errors import LedgerUnavailable
from cloister.ledger import Entry, Ledger

log = structlog.get_logger()


class Recorder:
    """Writes the control ledger. `policy` is the digest of the policy set in force, if there is one."""

    def __init__(
        self, ledger: Ledger, ballast: Ballast, *, clock: Clock = utc_now, policy: str | None = None
    ) -> None:
        self.ledger = ledger
        self._ballast = ballast
        self._clock = clock
        self._policy = policy
        self._owed: list[Entry] = []
        self._paying = asyncio.Lock()

    @property
    def owed(self) -> int:
        """How many entries about things taken away still wait for the ledger to write again."""
        return len(self._owed)

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
        return Entry(
            time=self._clock().isoformat(timespec="microseconds"),
            actor=actor.account if actor else "cloisterd",
            identified_by=f"SO_PEERCRED uid={actor.uid}" if actor else "self",
            action=action,
            objects=objects,
            digests=dict(digests or {}),
            policy=self._policy,
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

    async def record_taking_away(self, actor: Peer | None, action: str, *objects: str, **more: Any) -> None:
        """Like `record`, for what must succeed even when the ledger does not."""
        entry = self.entry(actor, action, *objects, **more)
        self._ballast.make_room()
        try:
            await asyncio.wrap_future(self.ledger.submit(entry, urgent=True))
        except LedgerUnavailable as error:
            log.error("ledger.owed", action=action, cause=error.message)
            self._owed.append(entry)

    async def _pay(self) -> None:
        async with self._paying:  # two at once would enter one twice and drop the next
            while self._owed:
                await asyncio.wrap_future(self.ledger.submit(self._owed[0]))
                self._owed.pop(0)
