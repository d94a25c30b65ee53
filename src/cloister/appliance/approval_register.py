"""The register of approvals: what was asked for, in which state it is, and what no longer stands.

It asks for none and decides on none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloister.api import Approval
from cloister.appliance import records
from cloister.appliance.approval_document import set_of
from cloister.appliance.leftovers import let_go
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import KEPT, LIVE, OPEN, ApprovalRow, DeploymentRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import NotFound


class ApprovalRegister:
    """All approvals of one home."""

    def __init__(self, state: StateStore, recorder: Recorder) -> None:
        self._state = state
        self._recorder = recorder
        self.diffs: dict[str, Callable[[dict[str, Any]], str]] = {}
        """How what was asked for differs from what there is, by action."""

    # --- looking -----------------------------------------------------------------------------

    def listed(self) -> list[Approval]:
        """All of them, the oldest first."""
        with self._state.read() as session:
            rows = session.scalars(select(ApprovalRow).order_by(ApprovalRow.requested_at)).all()
            return [self.document(row) for row in rows]

    def waiting(self) -> int:
        """How many wait for somebody's decision."""
        with self._state.read() as session:
            pending = select(func.count()).where(
                ApprovalRow.state == "pending", ApprovalRow.expires_at > self._state.now()
            )
            return session.scalar(pending) or 0

    def one(self, approval_id: str) -> Approval:
        """One, with how it differs from what there is."""
        row = self.row(approval_id)
        differ = self.diffs.get(row.action)
        pending = shown_state(row, self._state.now()) == "pending"
        diff = differ(row.request) if differ is not None and pending else None
        return self.document(row).model_copy(update={"diff": diff})

    def document(self, row: ApprovalRow) -> Approval:
        return records.approval(row, shown_state(row, self._state.now()))

    def row(self, approval_id: str) -> ApprovalRow:
        """Errors: NotFound."""
        with self._state.read() as session:
            row = session.get(ApprovalRow, approval_id)
        if row is None:
            raise NotFound(
                "there is no approval of that id",
                where=approval_id[:64],
                remedy="See `cloister approval list`.",
            )
        return row

    # --- what no longer stands ---------------------------------------------------------------

    async def void(self, peer: Peer | None, row: ApprovalRow, reason: str) -> None:
        """It no longer stands, also where the ledger cannot be written: the entry is owed then."""

        def end(change: Change) -> None:
            found = change.session.get_one(ApprovalRow, row.approval_id)
            if found.state in (*OPEN, KEPT):
                found.state, found.reason = "void", reason
                announce(change, found)

        await self._recorder.record_taking_away(
            peer,
            "approval.void",
            row.approval_id,
            digests={"approval": row.digest},
            reason=reason,
            alongside=end,
        )

    async def void_others(self, policies: str) -> None:
        """Nothing that was asked for or approved under another policy set than that of this digest stands any more,
        but for the deployments that are served under it: for those it is kept, and for nothing else."""
        with self._state.read() as session:
            rows = session.scalars(select(ApprovalRow).where(ApprovalRow.state.in_((*OPEN, KEPT)))).all()
            served = {row.approval_id: served_under(session, row.approval_id) for row in rows}
        now = self._state.now()
        for row in rows:
            if set_of(row) == policies:
                continue
            if row.state != "pending" and served[row.approval_id]:
                if row.state != KEPT:
                    await self._keep(row, served[row.approval_id], policies)
            elif row.open_at(now) or row.state == KEPT:
                await self.void(None, row, "the policy set has changed")

    async def _keep(self, row: ApprovalRow, deployments: Sequence[str], policies: str) -> None:
        """It stands for what was started under it alone, also where the ledger cannot be written."""
        reason = "the policy set has changed: it stands for what is served under it, and for nothing else"

        def end(change: Change) -> None:
            found = change.session.get_one(ApprovalRow, row.approval_id)
            if found.state == "approved":
                found.state = KEPT
                announce(change, found)

        await self._recorder.record_taking_away(
            None,
            "approval.keep",
            row.approval_id,
            *deployments,
            digests={"approval": row.digest, "approved_under": set_of(row), "in_force": policies},
            reason=reason,
            alongside=end,
        )


def shown_state(row: ApprovalRow, now: datetime) -> str:
    """The state as it counts at this moment."""
    return "expired" if row.state in OPEN and not row.open_at(now) else row.state


def ends_at(row: ApprovalRow) -> datetime | None:
    """When what is open ends by itself: a request that nobody decides on, an approval that stands."""
    return row.expires_at if row.state == "pending" else row.stands_until


def served_under(session: Session, approval_id: str) -> list[str]:
    """The deployments that have, or are to have, an engine under that approval."""
    live = select(DeploymentRow.deployment_id).where(
        DeploymentRow.approval == approval_id, DeploymentRow.state.in_(LIVE)
    )
    return list(session.scalars(live))


def announce(change: Change, row: ApprovalRow) -> None:
    """Tell of its state, with the commit that changes it; one that is closed lets go of what it held."""
    if row.state not in OPEN:
        let_go(row)
    change.event("approval.state", row.approval_id, state=row.state, action=row.action, name=row.name)
