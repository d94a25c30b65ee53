"""The gate before what nobody may do alone: an approval is asked for, and used once or while it stands.

A request that the policies let nobody do alone becomes an approval to be given. Given, the same request goes
through: the same, because what it is about freezes to the same digest. Who decides on it is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.appliance.approval_document import set_of
from cloister.appliance.approval_register import ApprovalRegister, announce
from cloister.appliance.approval_requests import ApprovalRequests, needed
from cloister.appliance.approval_worth import ApprovalWorth
from cloister.appliance.freezing import Freezer, Frozen
from cloister.appliance.guard import Guard
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import KEPT, ApprovalRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import ApprovalNeeded, CloisterError, Conflict, Denied
from cloister.policy.actions import BY_NAME
from cloister.policy.cedar import Demand, Question
from cloister.policy.roles import Standing
from cloister.policy.settings import ApprovalSettings
from cloister.policy.things import APPROVED, SIGNED

AGAIN = frozenset({"deployment.start"})
"""What may be done again while its approval stands, by whoever may do it: coming back to it is a rollback."""


@dataclass(frozen=True)
class Pass:
    """The way is free: by the policies alone, or by an approval, which `spend` uses up with what it is for.

    `by` is the approval that let it through. `returned` is what the entry of something that goes on says where that is
    under an approval from before the policy set changed: the digests of the set that it was asked for under and of
    the set in force, and its id.
    """

    approval_id: str | None = None
    recheck: Callable[[Change], None] = lambda change: None
    by: str | None = None
    returned: Mapping[str, Any] = field(default_factory=dict)

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
        worth: ApprovalWorth,
        *,
        appliance: str,
        freezers: Mapping[str, Freezer],
    ) -> None:
        self._state = state
        self._requests = ApprovalRequests(state, recorder, settings, register, appliance=appliance)
        self._guard = guard
        self._worth = worth
        self._freezers = freezers
        self._asking = asyncio.Lock()

    async def gate(self, peer: Peer, action: str, request: dict[str, Any], *, again: bool = False) -> Pass:
        """Let a request through, or ask for the approval that it needs.

        What it lets through is frozen without anything coming between that and the return: a caller that looks
        its things up at once gets just those, and `Pass.spend` checks it once more. With `again` an approval that
        was used for just this lets it through, too: to go on with what was begun.

        Errors: Denied where no approval would help, ApprovalNeeded, and what freezing says.
        """
        policies = self._guard.policies.digest
        worthless = await self._worthless(action, request)
        frozen, question, demand = await self._demanded(peer, action, request)
        if self._guard.policies.digest != policies:
            return await self.gate(peer, action, request, again=again)
        digest = frozen.digest(action, policies)
        recheck = self._recheck(action, request, digest)
        if demand is Demand.NOTHING:
            return Pass(None, recheck)
        with self._state.read() as session:
            for row in self._usable(session, peer, action, frozen, again=again):
                if row.approval_id not in worthless and self._suffices(row, question):
                    return self._pass(row, recheck)
        async with self._asking:  # asked twice at once, it is one request
            with self._state.read() as session:
                waiting = self._requests.waiting(session, peer, action, frozen, policies)
            if waiting is not None:
                raise needed(waiting, "still waits for an approver")
            signed = demand is Demand.SIGNATURE
            row = await self._requests.ask(peer, action, request, frozen, policies, signed=signed)
        raise needed(row, "takes the approval of somebody else")

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
        through, also once its time is over: not one that was refused since, or is void. Those that were used for just
        this count also once the policy set has changed, where the set in force is content with what they hold.
        Errors: Denied, ApprovalNeeded, Unavailable, and what freezing says.
        """
        policies = self._guard.policies.digest
        worthless = await self._worthless(action, request)
        who = await self._guard.standing(peer)
        if self._guard.policies.digest != policies:
            return await self.still(peer, action, request, remedy=remedy, moved=moved, under=under)
        frozen, question = self._put(peer, who, action, request)
        digest = frozen.digest(action, policies)
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
            rows = self._usable(session, peer, action, frozen, again=True, under=under) if not moved else []
        counting = [row for row in rows if row.state == "used" or action in AGAIN]
        why = "none stands for this as it is now"
        for row in counting:
            if row.approval_id in worthless:
                why = f"{row.approval_id} does not count: {worthless[row.approval_id]}"
            elif self._suffices(row, question):
                return replace(self._pass(row, recheck), approval_id=None)
            else:
                why = f"{row.approval_id}, under which it was begun, is not signed"
        signed = ", signed with their SSH key" if demand is Demand.SIGNATURE else ""
        raise ApprovalNeeded(
            f"to {BY_NAME[action].summary} on {frozen.facts.classification} data takes the approval of somebody else"
            f"{signed}, and {why}",
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

    def _pass(self, row: ApprovalRow, recheck: Callable[[Change], None]) -> Pass:
        before, in_force = set_of(row), self._guard.policies.digest
        digests = {"approved_under": before, "in_force": in_force}
        returned = {} if before == in_force else {"digests": digests, "approval": row.approval_id}
        return Pass(row.approval_id if row.state == "approved" else None, recheck, row.approval_id, returned)

    async def _worthless(self, action: str, request: dict[str, Any]) -> dict[str, str]:
        """Approvals of just this that do not count any more, by id, and why. Errors: Unavailable; of freezing."""
        with self._state.read() as session:
            frozen = self._freezers[action](session, request, self._state.now())
            rows = self._given(session, action, frozen)
        return await self._worth.lacking(rows)

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
        except ValidationError:  # of a later version, or of settings that there are no more
            return "this version of Cloister cannot do what was asked for"
        if frozen.as_of(row.request).digest(row.action, self._guard.policies.digest) == row.digest:
            return None
        return "what it is about, or the policy set, has changed since it was asked for"

    @staticmethod
    def _given(session: Session, action: str, frozen: Frozen) -> list[ApprovalRow]:
        """Approvals of just this, whichever policy set they were asked for under, the newest first."""
        rows = session.scalars(
            select(ApprovalRow)
            .where(ApprovalRow.state.in_(("approved", "used", KEPT)))
            .where(ApprovalRow.action == action, ApprovalRow.name == frozen.name)
            .order_by(ApprovalRow.decided_at.desc())
        )
        return [row for row in rows if row.digest == frozen.as_of(row.request).digest(action, set_of(row))]

    def _usable(
        self,
        session: Session,
        peer: Peer,
        action: str,
        frozen: Frozen,
        *,
        again: bool,
        under: str | None = None,
    ) -> list[ApprovalRow]:
        """Approvals of just this that stand, and that this account may use: never one that it gave itself. Under
        another policy set only what was used for this, or is that of the id `under`."""
        now, in_force = self._state.now(), self._guard.policies.digest
        return [
            row
            for row in self._given(session, action, frozen)
            if row.decider != peer.uid
            and (
                (again and row.state == "used")
                or row.approval_id == under
                or (
                    row.state == "approved"
                    and set_of(row) == in_force
                    and row.stands_until is not None
                    and row.stands_until > now
                    and (row.requester == peer.uid or action in AGAIN)
                )
            )
        ]
