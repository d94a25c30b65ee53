"""The gate before what nobody may do alone: an approval is asked for, and used once or while it stands.

A request that the policies let nobody do alone becomes an approval to be given. Given, the same request goes
through: the same, because what it is about freezes to the same digest. Who decides on it is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.appliance.approval_register import ApprovalRegister, announce, asked_under
from cloister.appliance.freezing import Freezer, Frozen
from cloister.appliance.guard import Guard
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import ApprovalRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import ApprovalNeeded, CloisterError, Conflict, Denied
from cloister.policy.actions import BY_NAME
from cloister.policy.cedar import Demand, Question
from cloister.policy.roles import Standing
from cloister.policy.settings import ApprovalSettings
from cloister.policy.things import APPROVED, SIGNED

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
        announce(change, row)

    @property
    def told(self) -> dict[str, str]:
        """What the entry of the action says of it."""
        return {} if self.approval_id is None else {"approval": self.approval_id}


def give_back(change: Change, approval_id: str) -> None:
    """What was spent on something that then did not come about stands again, for one use."""
    row = change.session.get_one(ApprovalRow, approval_id)
    if row.state == "used":
        row.state, row.used_at = "approved", None
        announce(change, row)


class Approvals:
    """Lets through what needs no approval or has one, and asks for it where not."""

    def __init__(
        self,
        state: StateStore,
        recorder: Recorder,
        guard: Guard,
        settings: ApprovalSettings,
        register: ApprovalRegister,
        *,
        appliance: str,
        freezers: Mapping[str, Freezer],
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._guard = guard
        self._settings = settings
        self._register = register
        self._appliance = appliance
        self._freezers = freezers
        self._asking = asyncio.Lock()

    # --- at the gate -----------------------------------------------------------------------

    async def gate(self, peer: Peer, action: str, request: dict[str, Any], *, again: bool = False) -> Pass:
        """Let a request through, or ask for the approval that it needs.

        What it lets through is frozen without anything coming between that and the return: a caller that looks
        its things up at once gets just those, and `Pass.spend` checks it once more. With `again` an approval that
        was used for just this lets it through, too: to go on with what was begun.

        Errors: Denied where no approval would help, ApprovalNeeded, and what freezing says.
        """
        frozen, question, demand = await self._demanded(peer, action, request)
        policies = self._guard.policies.digest
        digest = frozen.digest(action, policies)
        recheck = self._recheck(action, request, digest)
        if demand is Demand.NOTHING:
            return Pass(None, recheck)
        with self._state.read() as session:
            for row in self._usable(session, peer, action, digest, again=again):
                if self._suffices(row, question):
                    return Pass(None if row.state == "used" else row.approval_id, recheck)
        async with self._asking:  # asked twice at once, it is one request
            with self._state.read() as session:
                waiting = self._waiting(session, peer, digest)
            if waiting is not None:
                raise _needed(waiting, "still waits for an approver")
            signed = demand is Demand.SIGNATURE
            row = await self._ask(peer, action, request, frozen, policies, signed=signed)
        raise _needed(row, "takes the approval of somebody else")

    async def still(
        self,
        peer: Peer,
        action: str,
        request: dict[str, Any],
        *,
        remedy: str,
        moved: bool = False,
        under: str | None = None,
    ) -> Pass:
        """Whether what was let through, and has waited since, would be let through now; asks for no approval.

        An approval counts that was used for just this, unless it has `moved` on: it is not about the newest versions.
        For what may be done again one counts that stands, and that of the id `under`, under which it was let
        through, also once its time is over: not one that was refused since, or is void.
        Errors: Denied, ApprovalNeeded, and what freezing says.
        """
        who = await self._guard.standing(peer)
        frozen, question = self._put(peer, who, action, request)
        digest = frozen.digest(action, self._guard.policies.digest)
        recheck = self._recheck(action, request, digest)
        demand, _ = self._guard.policies.demand(question)
        if demand is Demand.NOTHING:
            return Pass(None, recheck)
        if demand is Demand.DENIED:
            raise Denied(
                f"{who.account} may not {BY_NAME[action].summary} any more",
                where=frozen.name,
                remedy=remedy,
            )
        with self._state.read() as session:
            rows = self._usable(session, peer, action, digest, again=True, under=under) if not moved else []
            counting = [row for row in rows if row.state == "used" or action in AGAIN]
            if any(self._suffices(row, question) for row in counting):
                return Pass(None, recheck)
        signed = ", signed with their SSH key" if demand is Demand.SIGNATURE else ""
        raise ApprovalNeeded(
            f"to {BY_NAME[action].summary} on {frozen.facts.classification} data takes the approval of somebody else"
            f"{signed}, and none stands for this as it is now",
            where=frozen.name,
            remedy=remedy,
        )

    def _put(
        self, peer: Peer, who: Standing, action: str, request: dict[str, Any]
    ) -> tuple[Frozen, Question]:
        """A request as it is now: frozen, and as a question to the policies."""
        with self._state.read() as session:
            frozen = self._freezers[action](session, request, self._state.now())
        question = Question(
            who.account,
            who.roles,
            action,
            frozen.kind,
            frozen.thing,
            uid=peer.uid,
            facts=frozen.facts,
            form=frozen.form,
        )
        return frozen, question

    def _recheck(self, action: str, request: dict[str, Any], digest: str) -> Callable[[Change], None]:
        """The check, in the transaction of the act, that a request is still what was let through."""

        def recheck(change: Change) -> None:
            now = self._freezers[action](change.session, request, change.now)
            if now.digest(action, self._guard.policies.digest) != digest:
                raise Conflict(
                    "something that it is about has changed meanwhile",
                    where=now.name,
                    remedy="Give the command again.",
                )

        return recheck

    def _suffices(self, row: ApprovalRow, question: Question) -> bool:
        consent = SIGNED if row.signature is not None else APPROVED
        return self._guard.policies.decide(replace(question, consent=consent)).allowed

    async def refuse_gated(self, peer: Peer, action: str, request: dict[str, Any], remedy: str) -> None:
        """Errors: Denied, ApprovalNeeded, where this could not be done without an approval; asks for none."""
        frozen, _, demand = await self._demanded(peer, action, request)
        if demand is not Demand.NOTHING:
            raise ApprovalNeeded(
                f"to {BY_NAME[action].summary} needs an approval", where=frozen.name, remedy=remedy
            )

    async def _demanded(
        self, peer: Peer, action: str, request: dict[str, Any]
    ) -> tuple[Frozen, Question, Demand]:
        """What a request is about, as it is at the return, and what the policies in force demand for it.

        Errors: Denied where no approval would help, and what freezing says.
        """
        who = await self._guard.standing(peer)
        frozen, question = self._put(peer, who, action, request)
        demand, decision = self._guard.policies.demand(question)
        if demand is Demand.DENIED:
            await self._guard.deny(peer, who, action, frozen.kind, frozen.thing, decision)
        return frozen, question, demand

    def changed(self, row: ApprovalRow) -> str | None:
        """Why what was asked for is no longer what there is."""
        try:
            with self._state.read() as session:
                frozen = self._freezers[row.action](session, row.request, self._state.now())
        except CloisterError as error:
            return error.message
        if frozen.digest(row.action, self._guard.policies.digest) == row.digest:
            return None
        return "what it is about, or the policy set, has changed since it was asked for"

    def _usable(
        self,
        session: Session,
        peer: Peer,
        action: str,
        digest: str,
        *,
        again: bool,
        under: str | None = None,
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
                or row.approval_id == under
                or (
                    row.state == "approved"
                    and row.stands_until is not None
                    and row.stands_until > now
                    and (row.requester == peer.uid or action in AGAIN)
                )
            )
        ]

    # --- asking ----------------------------------------------------------------------------

    async def _ask(
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
        row.document = self._document(row, peer, policies)
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

    def _document(self, row: ApprovalRow, peer: Peer, policies: str) -> str:
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
            asked_under(policies),
            f"digest: sha256 {row.digest}",
            *(f"- {line}" for line in row.summary),
            "Signing this with namespace cloister-approval approves it.",
        ]
        return "".join(line + "\n" for line in lines)


def _needed(row: ApprovalRow, why: str) -> ApprovalNeeded:
    signed = ", who signs it with their SSH key" if row.signature_needed else ""
    return ApprovalNeeded(
        f"to {BY_NAME[row.action].summary} ({row.name}) {why}{signed}",
        where=row.approval_id,
        remedy=f"An approver: `cloister approval show {row.approval_id}`, `cloister approval give "
        f"{row.approval_id}`. Then give this command again.",
        values={"approval": row.approval_id, "digest": row.digest},
    )
