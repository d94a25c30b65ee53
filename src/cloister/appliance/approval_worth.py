"""What an approval that was given is still worth: whether its signature holds, and whether, where another policy set
is in force than the one it was asked for under, who gave it could give it now.

It reads, and neither asks for approvals nor decides on the thing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from cloister.appliance import ssh_signatures
from cloister.appliance.approval_document import set_of
from cloister.appliance.facts import approval_facts
from cloister.appliance.guard import Guard
from cloister.appliance.peer import Peer
from cloister.appliance.state import ApprovalRow
from cloister.appliance.store import StateStore
from cloister.errors import Unauthenticated
from cloister.policy.cedar import Question

APPROVER = frozenset({"approver"})


class ApprovalWorth:
    """Asked before an approval is used, or counted for what goes on.

    Args:
        allowed_signers: the file of the keys that approvers sign with (ssh-keygen's format).
    """

    def __init__(self, state: StateStore, guard: Guard, allowed_signers: Path) -> None:
        self._state = state
        self._guard = guard
        self._allowed_signers = allowed_signers

    async def lacking(self, rows: Iterable[ApprovalRow]) -> dict[str, str]:
        """By id, of those that do not count any more, why not. Errors: Unavailable where that cannot be found out."""
        found = {}
        for row in rows:
            why = await self._unsigned(row) or await self._not_theirs(row)
            if why is not None:
                found[row.approval_id] = why
        return found

    async def _unsigned(self, row: ApprovalRow) -> str | None:
        """A key whose line was taken out of the file proves nothing any more; one that has ended since, it does."""
        if row.signature is None:
            return None
        try:
            await asyncio.to_thread(
                ssh_signatures.verify,
                row.document,
                row.signature,
                row.decided_by or "",
                self._allowed_signers,
                at=row.decided_at,
            )
        except Unauthenticated:
            return f"the key that {row.decided_by} signed it with is not in {self._allowed_signers}"
        return None

    async def _not_theirs(self, row: ApprovalRow) -> str | None:
        """Under another set: as an approver, which they were then, or as what they are now."""
        if set_of(row) == self._guard.policies.digest or row.decider is None:
            return None
        who = await self._guard.standing(Peer(0, row.decider, 0))
        with self._state.read() as session:
            facts = approval_facts(session, row)
        answers = [
            self._guard.policies.decide(
                Question(
                    row.decided_by or "",
                    roles,
                    "approval.give",
                    "Approval",
                    row.approval_id,
                    uid=row.decider,
                    facts=facts,
                )
            )
            for roles in (APPROVER, who.roles)
        ]
        if any(answer.allowed for answer in answers):
            return None
        policies = ", ".join(answers[0].policies) or "no policy permits it"
        return f"{row.decided_by}, who gave it, could not give it under the policy set in force: {policies}"
