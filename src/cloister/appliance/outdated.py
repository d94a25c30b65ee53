"""What was asked for or approved, and has changed since, is void, and stays so if it changes back.

A decision and a use find that out by themselves; here it is found by nobody's asking. It decides on nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from sqlalchemy import select

from cloister.appliance.approval_register import ApprovalRegister
from cloister.appliance.state import OPEN, ApprovalRow
from cloister.appliance.store import StateStore
from cloister.logs import place

log = structlog.get_logger()

EVERY_S = 60.0


class Outdated:
    """Looks at what is open.

    Args:
        changed: why what a row asked for is no longer what there is; None where it is.
    """

    def __init__(
        self, state: StateStore, register: ApprovalRegister, changed: Callable[[ApprovalRow], str | None]
    ) -> None:
        self._state = state
        self._register = register
        self._changed = changed
        self._looked = -1

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.sweep()
            except Exception as error:  # one that fails must not end all sweeping
                log.error("approvals.error", cause=place(error))

    async def sweep(self) -> None:
        """Void what is about something that has changed. Where nothing has happened since the last time, it looks at
        nothing."""
        mark = self._state.changes
        if mark == self._looked:
            return
        now = self._state.now()
        with self._state.read() as session:
            rows = session.scalars(select(ApprovalRow).where(ApprovalRow.state.in_(OPEN))).all()
        for row in rows:
            if row.open_at(now) and (why := self._changed(row)) is not None:
                await self._register.void(None, row, why)
        self._looked = mark
