"""What is left of a request once nobody can decide on it or use it: of a proposed policy set its digest, not its files.

A set that came into force lies in `policy_sets` for good, and explains every decision made under it. One that never did
explains none: its digest, the summary that the approvers saw and the document that they signed stay, here and in the
ledger.
"""

from __future__ import annotations

import asyncio
import contextlib

from sqlalchemy import func, select

from cloister.appliance.state import ApprovalRow
from cloister.appliance.store import StateStore
from cloister.errors import OutOfSpace
from cloister.policy.cedar import digest_of

EVERY_S = 3600.0


def let_go(row: ApprovalRow) -> None:
    """In the caller's transaction, for a request that is closed."""
    if "files" in row.request:
        row.request = {"digest": digest_of(row.request["files"])}


class Leftovers:
    """Lets go of what expired: nobody closes that."""

    def __init__(self, state: StateStore) -> None:
        self._state = state

    async def run(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(OutOfSpace):
                self.sweep()
            await asyncio.sleep(EVERY_S)

    def sweep(self) -> int:
        """How many requests it let go of the files of."""
        now = self._state.now()
        with self._state.read() as session:
            holding = session.scalars(
                select(ApprovalRow).where(func.json_type(ApprovalRow.request, "$.files").is_not(None))
            ).all()
            closed = [row.approval_id for row in holding if not row.open_at(now)]
        if closed:
            with self._state.change() as change:
                for approval_id in closed:
                    let_go(change.session.get_one(ApprovalRow, approval_id))
        return len(closed)
