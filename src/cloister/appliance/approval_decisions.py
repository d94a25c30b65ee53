"""Deciding on what was asked for: approved, refused, withdrawn; signed where it has to be, and verified again later.

Every refusal is entered. What was asked for is looked up in the register; how it came there is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import structlog

from cloister.api import Approval, ApprovalDecision
from cloister.appliance import ssh_signatures
from cloister.appliance.approval_register import (
    ApprovalRegister,
    announce,
    ends_at,
    served_under,
    shown_state,
)
from cloister.appliance.guard import Guard
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import KEPT, ApprovalRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import (
    CloisterError,
    Conflict,
    InvalidInput,
    LedgerUnavailable,
    OutOfSpace,
    Unauthenticated,
)
from cloister.policy.settings import ApprovalSettings

log = structlog.get_logger()
GIVEN = ("approved", KEPT)
"""States of an approval that was given, and that an approver may take back."""


class ApprovalDecisions:
    """Takes decisions in.

    Args:
        changed: why what a row asked for is no longer what there is; None where it is.
        allowed_signers: the file of the keys that approvers sign with (ssh-keygen's format).
    """

    def __init__(
        self,
        state: StateStore,
        recorder: Recorder,
        guard: Guard,
        settings: ApprovalSettings,
        register: ApprovalRegister,
        *,
        changed: Callable[[ApprovalRow], str | None],
        allowed_signers: Path,
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._guard = guard
        self._settings = settings
        self._register = register
        self._changed = changed
        self._allowed_signers = allowed_signers
        self._deciding = asyncio.Lock()

    async def give(self, peer: Peer, approval_id: str, decision: ApprovalDecision) -> Approval:
        """Approve. Errors: NotFound; Conflict, InvalidInput, Unauthenticated, Denied, each entered."""
        async with self._deciding:  # two gates at once would each not know of the other
            await self._guard.require(peer, "approval.give", "Approval", approval_id)
            return await self._give(peer, approval_id, decision)

    async def _give(self, peer: Peer, approval_id: str, decision: ApprovalDecision) -> Approval:
        row = self._register.row(approval_id)
        await self._require_open(peer, row)
        if decision.digest != row.digest:
            await self._reject(
                peer,
                row,
                Conflict(
                    "this is not what you were shown",
                    where=approval_id,
                    remedy="Look at it again, and decide.",
                ),
            )
        problem = self._changed(row)
        if problem is not None:
            await self._register.void(peer, row, problem)
            raise Conflict(
                f"it is void: {problem}", where=approval_id, remedy=f"{row.requested_by} may ask again."
            )
        signer = None
        if decision.signature is not None:
            signer = await self._verified(peer, row, decision.signature)
            row = self._register.row(approval_id)
            await self._require_open(peer, row)  # the check may have taken long
        elif row.signature_needed:
            await self._reject(
                peer,
                row,
                InvalidInput(
                    f"{row.classification} data: this approval needs your signature",
                    where=approval_id,
                    remedy=f"`cloister approval give {approval_id} --sign`, or sign the file of `cloister approval "
                    f"export {approval_id}` elsewhere and give --signature FILE.",
                ),
            )
        signature = {} if decision.signature is None else {"signature": decision.signature, "signer": signer}
        await self._recorder.record(
            peer,
            "approval.give",
            approval_id,
            *row.data,
            digests={"approval": row.digest},
            decision="allow",
            reason=decision.reason,
            asked=row.action,
            name=row.name,
            requested_by=row.requested_by,
            **signature,
        )
        try:
            with self._state.change() as change:
                row = self._still(change, row)
                row.state = "approved"
                self._decide(change, row, peer, decision.reason)
                row.stands_until = change.now + timedelta(days=self._settings.stands_days)
                row.signature, row.signer = decision.signature, signer
                announce(change, row)
                return self._register.document(row)
        except Conflict as error:
            await self._reject(peer, row, error)

    async def refuse(self, peer: Peer, approval_id: str, decision: ApprovalDecision) -> Approval:
        """Refuse, with a reason; also what was approved, and then it no longer stands: not for what is served under
        it either, whether or not its time is over.

        Errors: NotFound, Conflict, InvalidInput.
        """
        row = self._register.row(approval_id)
        with self._state.read() as session:
            serves = row.state in GIVEN and served_under(session, approval_id)
        if shown_state(row, self._state.now()) not in GIVEN and not serves:
            await self._require_open(peer, row)
        if decision.reason is None:
            problem = InvalidInput("a refusal has a reason", where=approval_id, remedy="Give --reason.")
            await self._reject(peer, row, problem)
        return await self._close(peer, row, "refused", "approval.refuse", decision.reason)

    async def withdraw(self, peer: Peer, approval_id: str) -> Approval:
        """Take back what one asked for. Errors: NotFound, Conflict."""
        row = self._register.row(approval_id)
        await self._require_open(peer, row)
        return await self._close(peer, row, "withdrawn", "approval.withdraw", None)

    async def _close(
        self, peer: Peer, row: ApprovalRow, state: str, action: str, reason: str | None
    ) -> Approval:
        await self._recorder.record(
            peer,
            action,
            row.approval_id,
            *row.data,
            digests={"approval": row.digest},
            decision="deny" if state == "refused" else None,
            reason=reason,
            asked=row.action,
            name=row.name,
        )
        try:
            with self._state.change() as change:
                row = self._still(change, row)
                if row.state == "pending":
                    self._decide(change, row, peer, reason)
                else:  # who gave it, and signed, stays known
                    row.reason = f"taken back by {peer.account}: {reason}"
                row.state = state
                announce(change, row)
                return self._register.document(row)
        except Conflict as error:
            await self._reject(peer, row, error)

    @staticmethod
    def _decide(change: Change, row: ApprovalRow, peer: Peer, reason: str | None) -> None:
        row.decided_by, row.decider, row.decided_at = peer.account, peer.uid, change.now
        row.reason = reason

    @staticmethod
    def _still(change: Change, before: ApprovalRow) -> ApprovalRow:
        """The row, for the change. Errors: Conflict where its state has come to be another than it was `before`."""
        row = change.session.get_one(ApprovalRow, before.approval_id)
        state = shown_state(row, change.now)
        serves = row.state in GIVEN and served_under(change.session, row.approval_id)
        if state != before.state and not (serves and row.state == before.state):
            raise Conflict(f"it is {state} meanwhile", where=row.approval_id)
        return row

    async def _require_open(self, peer: Peer, row: ApprovalRow) -> None:
        state, end = shown_state(row, self._state.now()), ends_at(row)
        if state == "pending":
            return
        when = f" since {end:%Y-%m-%d %H:%M} UTC" if state == "expired" and end is not None else ""
        remedy = "Ask again."
        if state in GIVEN:
            remedy = (
                f"An approver may take it back: `cloister approval refuse {row.approval_id} --reason WHY`."
            )
        await self._reject(
            peer,
            row,
            Conflict(
                f"it is {state}{when}, so nothing more is decided", where=row.approval_id, remedy=remedy
            ),
        )

    async def _verified(self, peer: Peer, row: ApprovalRow, signature: str) -> str:
        try:
            return await asyncio.to_thread(
                ssh_signatures.verify, row.document, signature, peer.account, self._allowed_signers
            )
        except Unauthenticated as error:
            await self._reject(peer, row, error)

    async def _reject(self, peer: Peer, row: ApprovalRow, error: CloisterError) -> NoReturn:
        """Enter that somebody tried, and refuse it; refused it is also where it cannot be entered."""
        try:
            await self._recorder.record(
                peer,
                "approval.reject",
                row.approval_id,
                digests={"approval": row.digest},
                decision="deny",
                reason=error.message,
                asked=row.action,
            )
        except (LedgerUnavailable, OutOfSpace) as unwritten:
            log.warning("approval.reject", approval=row.approval_id, cause=unwritten.code)
        raise error

    async def verify(self, approval_id: str) -> Approval:
        """Check a kept signature again, as of the moment it was given. Errors: Unauthenticated, Conflict."""
        row = self._register.row(approval_id)
        if row.signature is None or row.decided_by is None:
            raise Conflict("nobody signed it", where=approval_id)
        await asyncio.to_thread(
            ssh_signatures.verify,
            row.document,
            row.signature,
            row.decided_by,
            self._allowed_signers,
            at=row.decided_at,
        )
        return self._register.document(row)
