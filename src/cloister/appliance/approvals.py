"""What nobody may do alone: asked for, frozen, approved or refused by somebody else, used once or while it stands.

A request that the policies let nobody do alone becomes an approval to be given. Given, the same request goes
through: the same, because what it is about freezes to the same digest. Every refusal is entered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloister.api import Approval, ApprovalDecision
from cloister.appliance import records, ssh_signatures
from cloister.appliance.freezing import Freezer, Frozen
from cloister.appliance.guard import Guard
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import ApprovalRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import (
    ApprovalNeeded,
    CloisterError,
    Conflict,
    InvalidInput,
    LedgerUnavailable,
    NotFound,
    OutOfSpace,
    Unauthenticated,
)
from cloister.policy.actions import BY_NAME
from cloister.policy.cedar import Demand, Question
from cloister.policy.settings import ApprovalSettings
from cloister.policy.things import APPROVED, SIGNED

log = structlog.get_logger()

OPEN = ("pending", "approved")
AGAIN = frozenset({"deployment.start"})
"""What may be done again while its approval stands, by whoever may do it: coming back to it is a rollback."""
MAX_PENDING = 200
"""Requests that wait, of one account."""


@dataclass(frozen=True)
class Pass:
    """The way is free: by the policies alone, or by an approval, which `spend` uses up with what it is for."""

    approval_id: str | None = None
    recheck: Callable[[Change], None] = lambda change: None

    def spend(self, change: Change) -> None:
        """To be called in the transaction of the act, before it changes anything.

        Errors: Conflict where something that it is about has changed since, or the approval was used or voided.
        """
        self.recheck(change)
        if self.approval_id is None:
            return
        row = change.session.get_one(ApprovalRow, self.approval_id)
        if row.state != "approved":
            raise Conflict(f"the approval is {row.state}", where=row.approval_id, remedy="Ask again.")
        row.used_at = change.now
        if row.action not in AGAIN:
            row.state = "used"
        _announce(change, row)

    @property
    def told(self) -> dict[str, str]:
        """What the entry of the action says of it."""
        return {} if self.approval_id is None else {"approval": self.approval_id}


class Approvals:
    """Asks for them, takes decisions in, and lets through what was approved."""

    def __init__(
        self,
        state: StateStore,
        recorder: Recorder,
        guard: Guard,
        settings: ApprovalSettings,
        *,
        appliance: str,
        allowed_signers: Path,
        freezers: Mapping[str, Freezer],
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._guard = guard
        self._settings = settings
        self._appliance = appliance
        self._allowed_signers = allowed_signers
        self._freezers = freezers
        self.diffs: dict[str, Callable[[dict[str, Any]], str]] = {}
        """How what was asked for differs from what there is, by action."""
        self._deciding = asyncio.Lock()

    # --- at the gate -----------------------------------------------------------------------

    async def gate(self, peer: Peer, action: str, request: dict[str, Any], *, again: bool = False) -> Pass:
        """Let a request through, or ask for the approval that it needs.

        What it lets through is frozen without anything coming between that and the return: a caller that looks
        its things up at once gets just those, and `Pass.spend` checks it once more. With `again` an approval that
        was used for just this lets it through, too: to go on with what was begun.

        Errors: Denied where no approval would help, ApprovalNeeded, and what freezing says.
        """
        who = await self._guard.standing(peer)
        with self._state.read() as session:
            frozen = self._freezers[action](session, request, self._state.now())
        question = Question(
            who.account, who.roles, action, frozen.kind, frozen.thing, uid=peer.uid, facts=frozen.facts
        )
        policies = self._guard.policies
        demand, decision = policies.demand(question)
        digest = frozen.digest(action, policies.digest)

        def recheck(change: Change) -> None:
            now = self._freezers[action](change.session, request, change.now)
            if now.digest(action, self._guard.policies.digest) != digest:
                raise Conflict(
                    "something that it is about has changed meanwhile",
                    where=frozen.name,
                    remedy="Give the command again.",
                )

        if demand is Demand.NOTHING:
            return Pass(None, recheck)
        if demand is Demand.DENIED:
            await self._guard.deny(peer, who, action, frozen.kind, decision)
        with self._state.read() as session:
            given = self._usable(session, peer, action, digest, again=again)
            for row in given:
                consent = SIGNED if row.signature is not None else APPROVED
                if policies.decide(replace(question, consent=consent)).allowed:
                    return Pass(None if row.state == "used" else row.approval_id, recheck)
            waiting = self._waiting(session, peer, digest)
        if waiting is not None:
            raise _needed(waiting, "still waits for an approver")
        row = await self._ask(peer, action, request, frozen, digest, signed=demand is Demand.SIGNATURE)
        raise _needed(row, "takes the approval of somebody else")

    async def refuse_gated(self, peer: Peer, action: str, request: dict[str, Any], remedy: str) -> None:
        """Errors: Denied, ApprovalNeeded, where this could not be done without an approval; asks for none."""
        who = await self._guard.standing(peer)
        with self._state.read() as session:
            frozen = self._freezers[action](session, request, self._state.now())
        demand, decision = self._guard.policies.demand(
            Question(
                who.account, who.roles, action, frozen.kind, frozen.thing, uid=peer.uid, facts=frozen.facts
            )
        )
        if demand is Demand.DENIED:
            await self._guard.deny(peer, who, action, frozen.kind, decision)
        if demand is not Demand.NOTHING:
            raise ApprovalNeeded(
                f"to {BY_NAME[action].summary} needs an approval", where=frozen.name, remedy=remedy
            )

    def _usable(
        self, session: Session, peer: Peer, action: str, digest: str, *, again: bool
    ) -> list[ApprovalRow]:
        """Approvals of just this that stand, and that this account may use: never one that it gave itself."""
        rows = session.scalars(
            select(ApprovalRow)
            .where(ApprovalRow.state.in_(("approved", "used")), ApprovalRow.digest == digest)
            .order_by(ApprovalRow.decided_at.desc())
        )
        now = self._state.now()
        return [
            row
            for row in rows
            if row.decider != peer.uid
            and (
                (again and row.state == "used")
                or (
                    row.state == "approved"
                    and row.stands_until is not None
                    and row.stands_until > now
                    and (row.requester == peer.uid or action in AGAIN)
                )
            )
        ]

    async def _ask(
        self, peer: Peer, action: str, request: dict[str, Any], frozen: Frozen, digest: str, *, signed: bool
    ) -> ApprovalRow:
        """A new request; older ones of this account for the same name, now another thing, are void."""
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
        for old in stale:
            await self._void(peer, old, "asked for anew, and something has changed")
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
        row.document = self._document(row, peer)
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
            other = self._waiting(change.session, peer, digest)
            if other is not None:  # asked twice at once, it is one request
                return other
            change.session.add(row)
            _announce(change, row)
        return row

    def _waiting(self, session: Session, peer: Peer, digest: str) -> ApprovalRow | None:
        """The request of this account for just this that nobody has decided on yet."""
        return session.scalars(
            select(ApprovalRow).where(
                ApprovalRow.state == "pending",
                ApprovalRow.digest == digest,
                ApprovalRow.requester == peer.uid,
                ApprovalRow.expires_at > self._state.now(),
            )
        ).first()

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

    def _document(self, row: ApprovalRow, peer: Peer) -> str:
        """What a signature signs: all that an approver has to know, one thing a line."""
        lines = [
            "Cloister approval, version 1",
            f"appliance: {self._appliance}",
            f"approval: {row.approval_id}",
            f"action: {row.action}",
            f"name: {row.name}",
            f"classification: {row.classification}",
            f"asked by: {row.requested_by} (uid {peer.uid})",
            f"asked at: {row.requested_at:%Y-%m-%dT%H:%M:%SZ}",
            f"expires at: {row.expires_at:%Y-%m-%dT%H:%M:%SZ}",
            f"policies: sha256 {self._guard.policies.digest}",
            f"digest: sha256 {row.digest}",
            *(f"- {line}" for line in row.summary),
            "Signing this with namespace cloister-approval approves it.",
        ]
        return "".join(line + "\n" for line in lines)

    # --- deciding --------------------------------------------------------------------------

    async def give(self, peer: Peer, approval_id: str, decision: ApprovalDecision) -> Approval:
        """Approve. Errors: NotFound; Conflict, InvalidInput, Unauthenticated, Denied, each entered."""
        async with self._deciding:  # two gates at once would each not know of the other
            await self._guard.require(peer, "approval.give", "Approval", approval_id)
            return await self._give(peer, approval_id, decision)

    async def _give(self, peer: Peer, approval_id: str, decision: ApprovalDecision) -> Approval:
        row = self._row(approval_id)
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
            await self._void(peer, row, problem)
            raise Conflict(
                f"it is void: {problem}", where=approval_id, remedy=f"{row.requested_by} may ask again."
            )
        signer = None
        if decision.signature is not None:
            signer = await self._verified(peer, row, decision.signature)
        elif row.signature_needed:
            raise InvalidInput(
                f"{row.classification} data: this approval needs your signature",
                where=approval_id,
                remedy=f"`cloister approval give {approval_id} --sign`, or sign the file of `cloister approval "
                f"export {approval_id}` elsewhere and give --signature FILE.",
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
        with self._state.change() as change:
            row = self._still_pending(change, approval_id)
            row.state = "approved"
            self._decide(change, row, peer, decision.reason)
            row.stands_until = change.now + timedelta(days=self._settings.stands_days)
            row.signature, row.signer = decision.signature, signer
            _announce(change, row)
            return self.document(row)

    async def refuse(self, peer: Peer, approval_id: str, decision: ApprovalDecision) -> Approval:
        """Refuse, with a reason; also what was approved, and then it no longer stands.

        Errors: NotFound, Conflict, InvalidInput.
        """
        row = self._row(approval_id)
        if shown_state(row, self._state.now()) != "approved":
            await self._require_open(peer, row)
        if decision.reason is None:
            raise InvalidInput("a refusal has a reason", where=approval_id, remedy="Give --reason.")
        return await self._close(peer, row, "refused", "approval.refuse", decision.reason)

    async def withdraw(self, peer: Peer, approval_id: str) -> Approval:
        """Take back what one asked for. Errors: NotFound, Conflict."""
        row = self._row(approval_id)
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
        with self._state.change() as change:
            row = self._still_open(change, row)
            if row.state == "pending":
                self._decide(change, row, peer, reason)
            else:  # who gave it, and signed, stays known
                row.reason = f"taken back by {peer.account}: {reason}"
            row.state = state
            _announce(change, row)
            return self.document(row)

    @staticmethod
    def _decide(change: Change, row: ApprovalRow, peer: Peer, reason: str | None) -> None:
        row.decided_by, row.decider, row.decided_at = peer.account, peer.uid, change.now
        row.reason = reason

    @staticmethod
    def _still_open(change: Change, before: ApprovalRow) -> ApprovalRow:
        row = change.session.get_one(ApprovalRow, before.approval_id)
        if row.state != before.state:
            raise Conflict(f"it is {row.state} meanwhile", where=row.approval_id)
        return row

    @staticmethod
    def _still_pending(change: Change, approval_id: str) -> ApprovalRow:
        row = change.session.get_one(ApprovalRow, approval_id)
        if row.state != "pending":
            raise Conflict(f"it is {row.state} already", where=approval_id)
        return row

    async def _require_open(self, peer: Peer, row: ApprovalRow) -> None:
        now = self._state.now()
        state = shown_state(row, now)
        if state != "pending":
            when = f" since {row.expires_at:%Y-%m-%d %H:%M} UTC" if state == "expired" else ""
            await self._reject(
                peer,
                row,
                Conflict(
                    f"it is {state}{when}, so nothing more is decided",
                    where=row.approval_id,
                    remedy="Ask again.",
                ),
            )

    def _changed(self, row: ApprovalRow) -> str | None:
        """Why what was asked for is no longer what there is."""
        try:
            with self._state.read() as session:
                frozen = self._freezers[row.action](session, row.request, self._state.now())
        except CloisterError as error:
            return error.message
        if frozen.digest(row.action, self._guard.policies.digest) == row.digest:
            return None
        return "what it is about, or the policy set, has changed since it was asked for"

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

    async def _void(self, peer: Peer | None, row: ApprovalRow, reason: str) -> None:
        await self._recorder.record(
            peer, "approval.void", row.approval_id, digests={"approval": row.digest}, reason=reason
        )
        with self._state.change() as change:
            found = change.session.get_one(ApprovalRow, row.approval_id)
            if found.state in OPEN:
                found.state, found.reason = "void", reason
                _announce(change, found)

    async def void_all(self, reason: str) -> None:
        """Nothing that was asked for or approved stands any more."""
        with self._state.read() as session:
            rows = session.scalars(select(ApprovalRow).where(ApprovalRow.state.in_(OPEN))).all()
        for row in rows:
            await self._void(None, row, reason)

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
        row = self._row(approval_id)
        differ = self.diffs.get(row.action)
        diff = differ(row.request) if differ is not None and row.state == "pending" else None
        return self.document(row).model_copy(update={"diff": diff})

    async def verify(self, approval_id: str) -> Approval:
        """Check a kept signature again, as of the moment it was given. Errors: Unauthenticated, Conflict."""
        row = self._row(approval_id)
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
        return self.document(row)

    def document(self, row: ApprovalRow) -> Approval:
        return records.approval(row, shown_state(row, self._state.now()))

    def _row(self, approval_id: str) -> ApprovalRow:
        with self._state.read() as session:
            row = session.get(ApprovalRow, approval_id)
        if row is None:
            raise NotFound(
                "there is no approval of that id",
                where=approval_id[:64],
                remedy="See `cloister approval list`.",
            )
        return row


def shown_state(row: ApprovalRow, now: datetime) -> str:
    """The state as it counts at this moment."""
    until = row.expires_at if row.state == "pending" else row.stands_until
    return "expired" if row.state in OPEN and until is not None and until <= now else row.state


def _needed(row: ApprovalRow, why: str) -> ApprovalNeeded:
    signed = ", who signs it with their SSH key" if row.signature_needed else ""
    return ApprovalNeeded(
        f"to {BY_NAME[row.action].summary} ({row.name}) {why}{signed}",
        where=row.approval_id,
        remedy=f"An approver: `cloister approval show {row.approval_id}`, `cloister approval give "
        f"{row.approval_id}`. Then give this command again.",
        values={"approval": row.approval_id, "digest": row.digest},
    )


def _announce(change: Change, row: ApprovalRow) -> None:
    change.event("approval.state", row.approval_id, state=row.state, action=row.action, name=row.name)
