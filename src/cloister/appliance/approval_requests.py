"""Asking for an approval: a request frozen as it is, entered, and announced to whoever may give it.

What needs one, and what a given one lets through, is not known here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.appliance.approval_document import document_of
from cloister.appliance.approval_register import ApprovalRegister, announce
from cloister.appliance.freezing import Frozen
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import ApprovalRow
from cloister.appliance.store import StateStore
from cloister.errors import ApprovalNeeded, Conflict
from cloister.policy.actions import BY_NAME
from cloister.policy.settings import ApprovalSettings

MAX_PENDING = 200
"""Requests that wait, of one account."""


class ApprovalRequests:
    """Makes requests, and finds those that wait."""

    def __init__(
        self,
        state: StateStore,
        recorder: Recorder,
        settings: ApprovalSettings,
        register: ApprovalRegister,
        *,
        appliance: str,
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._settings = settings
        self._register = register
        self._appliance = appliance

    async def ask(
        self,
        peer: Peer,
        action: str,
        request: dict[str, Any],
        frozen: Frozen,
        policies: str,
        *,
        signed: bool,
    ) -> ApprovalRow:
        """A new request, under the policy set of that digest; then older ones of this account for the same name,
        now another thing, are void."""
        digest = frozen.digest(action, policies)
        now = self._state.now()
        with self._state.read() as session:
            stale = self._stale(session, peer, action, frozen.name, digest)
            mine = session.scalars(
                select(ApprovalRow).where(
                    ApprovalRow.state == "pending",
                    ApprovalRow.requester == peer.uid,
                    ApprovalRow.expires_at > now,
                )
            ).all()
        if len(mine) - len(stale) >= MAX_PENDING:
            raise Conflict(
                f"{len(mine)} requests of yours wait already",
                remedy="Withdraw some: `cloister approval list`, `cloister approval withdraw ID`.",
            )
        row = ApprovalRow(
            approval_id=new_id("approval"),
            state="pending",
            action=action,
            kind=frozen.kind,
            thing=frozen.thing,
            name=frozen.name,
            classification=frozen.facts.classification,
            digest=digest,
            request=request,
            summary=list(frozen.summary),
            data=list(frozen.data),
            signature_needed=signed,
            requested_by=peer.account,
            requester=peer.uid,
            requested_at=now,
            expires_at=now + timedelta(hours=self._settings.wait_h),
            document="",
        )
        row.document = document_of(row, appliance=self._appliance, policies=policies)
        await self._recorder.record(
            peer,
            "approval.request",
            row.approval_id,
            *frozen.data,
            digests={"approval": digest},
            asked=action,
            name=frozen.name,
            classification=row.classification,
            signature=signed,
            document=row.document,
        )
        with self._state.change() as change:
            change.session.add(row)
            announce(change, row)
        for old in stale:
            await self._register.void(peer, old, "asked for anew, and something has changed")
        return row

    def waiting(
        self, session: Session, peer: Peer, action: str, frozen: Frozen, policies: str
    ) -> ApprovalRow | None:
        """The request of this account for just this that nobody has decided on yet."""
        pending = session.scalars(
            select(ApprovalRow).where(
                ApprovalRow.state == "pending",
                ApprovalRow.action == action,
                ApprovalRow.name == frozen.name,
                ApprovalRow.requester == peer.uid,
                ApprovalRow.expires_at > self._state.now(),
            )
        )
        same = (row for row in pending if row.digest == frozen.as_of(row.request).digest(action, policies))
        return next(same, None)

    @staticmethod
    def _stale(session: Session, peer: Peer, action: str, name: str, digest: str) -> list[ApprovalRow]:
        return list(
            session.scalars(
                select(ApprovalRow).where(
                    ApprovalRow.state == "pending",
                    ApprovalRow.requester == peer.uid,
                    ApprovalRow.action == action,
                    ApprovalRow.name == name,
                    ApprovalRow.digest != digest,
                )
            )
        )


def needed(row: ApprovalRow, why: str) -> ApprovalNeeded:
    signed = ", who signs it with their SSH key" if row.signature_needed else ""
    return ApprovalNeeded(
        f"to {BY_NAME[row.action].summary} ({row.name}) {why}{signed}",
        where=row.approval_id,
        remedy=f"An approver: `cloister approval show {row.approval_id}`, `cloister approval give "
        f"{row.approval_id}`. Then give this command again.",
        values={"approval": row.approval_id, "digest": row.digest},
    )
