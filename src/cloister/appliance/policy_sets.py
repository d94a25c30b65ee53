"""Which policy set is in force: the one that came with the appliance, until another is approved.

What is in force lies in the state, to the byte; files on disk are proposals. Knows sets and settings, and
leaves decisions to `guard` and `approvals`.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import PolicyProposal, PolicySetInfo
from cloister.appliance.approval_register import ApprovalRegister
from cloister.appliance.approvals import Approvals
from cloister.appliance.freezing import Frozen
from cloister.appliance.guard import Guard
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import PolicySetRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import CloisterError, Conflict, InvalidInput
from cloister.policy.cases import parse_cases, run_all, run_cases
from cloister.policy.cedar import SCHEMA, PolicySet, default_policies, digest_of
from cloister.policy.guards import refuse_unknown_names
from cloister.policy.settings import AccessSettings
from cloister.policy.table import Cell, changed
from cloister.policy.things import Facts

SHOWN = 40
LOOK_EVERY_S = 60.0
MAX_SET = 1 << 18
MAX_POLICIES = 256


class PolicySets:
    """The set in force, and the way to another one."""

    def __init__(self, state: StateStore, access: AccessSettings) -> None:
        self._state = state
        self._access = access
        self._folder = Path(access.policies) if access.policies else default_policies()
        self._shipped = access.policies is None
        self.in_force, self._origin = self._choose()
        self._looked_at, self._warnings = -LOOK_EVERY_S, list[str]()
        self._summaries: dict[str, tuple[str, ...]] = {}
        self._proposing = asyncio.Lock()

    def _choose(self) -> tuple[PolicySet, str]:
        """Errors: InvalidInput where the set that would be in force is not valid."""
        accepted = self._access.accept_policies
        with self._state.read() as session:
            row = _row_in_force(session)
            before = session.get(PolicySetRow, accepted) if accepted is not None else None
            known = before is not None and before.origin == "settings"
        if row is None:
            return PolicySet.load(self._folder), "shipped" if self._shipped else "folder"
        if accepted is not None and not known:
            found = PolicySet.load(self._folder)
            if found.digest != accepted:
                raise InvalidInput(
                    f"`access.accept_policies` is not the digest of this set, which is {found.digest}",
                    where=str(self._folder),
                )
            return found, "settings"
        if row.origin == "shipped" and self._shipped:
            return PolicySet.load(self._folder), "shipped"  # a newer Cloister brings a newer one
        try:
            return PolicySet(row.files, "the policy set in force"), row.origin
        except InvalidInput as error:
            raise InvalidInput(
                error.message,
                where=error.where,
                remedy="This version knows other actions. Bring a set that fits into the folder of "
                "`access.policies`, and accept it there by its digest: `access.accept_policies`.",
            ) from None

    async def begin(self, recorder: Recorder) -> None:
        """Keep the chosen set, and enter it where it is another than before. What was approved under another ends."""
        with self._state.read() as session:
            row = _row_in_force(session)
        if row is None or row.digest != self.in_force.digest:
            await recorder.record(
                None,
                "policy.change",
                digests={"after": self.in_force.digest} | ({"before": row.digest} if row is not None else {}),
                origin=self._origin,
            )
            with self._state.change() as change:
                self._keep(change, self.in_force, self._origin, None)
        await self._register.void_others(self.in_force.digest)

    def attach(
        self, guard: Guard, recorder: Recorder, approvals: Approvals, register: ApprovalRegister
    ) -> None:
        """What a change of the set has to reach."""
        self._guard, self._recorder, self._approvals = guard, recorder, approvals
        self._register = register
        register.diffs["policy.change"] = self.diff

    def info(self) -> PolicySetInfo:
        with self._state.read() as session:
            row = _row_in_force(session)
        return PolicySetInfo(
            digest=self.in_force.digest,
            origin=self._origin,
            since=row.since if row is not None else None,
            approval=row.approval_id if row is not None else None,
            files=self.in_force.files,
        )

    def warnings(self) -> list[str]:
        """A sentence for the status where the folder of the settings had another set than is in force, by `look`."""
        return self._warnings

    async def look(self) -> None:
        """Compare that folder with the set in force, once a minute; in a thread, as it validates a whole set."""
        if not self._shipped and time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            self._warnings = await asyncio.to_thread(self._look)

    def _look(self) -> list[str]:
        try:
            found = PolicySet.load(self._folder).digest
        except InvalidInput as error:
            return [f"the policies in {self._folder} are not valid, and not in force: {error.message[:200]}"]
        if found == self.in_force.digest:
            return []
        return [
            f"the policies in {self._folder} are not those in force: `cloister policy propose {self._folder}`"
        ]

    def freeze(self, session: Session, request: dict[str, Any], now: datetime) -> Frozen:
        """Another set. What it would change has been worked out before, by `propose`."""
        digest = digest_of(request["files"])
        return Frozen(
            kind="Appliance",
            thing="policies",
            name="policies",
            facts=Facts(),
            pinned={"after": digest, "before": self.in_force.digest},
            summary=(f"another policy set: sha256 {digest}", *self._summaries.get(digest, ())),
            data=(),
        )

    def diff(self, request: dict[str, Any]) -> str:
        """How the proposed files differ from those in force, as a unified diff."""
        old, new = self.in_force.files, request["files"]
        lines: list[str] = []
        for name in sorted({*old, *new}):
            lines += difflib.unified_diff(
                old.get(name, "").splitlines(),
                new.get(name, "").splitlines(),
                f"a/{name}",
                f"b/{name}",
                lineterm="",
            )
        return "\n".join(lines)

    @staticmethod
    def _summary(before: PolicySet, proposed: PolicySet) -> tuple[str, ...]:
        """What another set would change, for whoever is to approve it."""
        old = {policy.id: policy.canonical for policy in before.policies}
        new = {policy.id: policy.canonical for policy in proposed.policies}
        cells = changed(before, proposed)
        cases = run_cases(proposed, default_policies() / "tests")
        failed = [one.where for one in cases if one.problem is not None]
        schema = before.files[SCHEMA] != proposed.files[SCHEMA]
        shown = [_told(cell, was) for cell, was in cells[:SHOWN]]
        rest = [f"and {len(cells) - SHOWN} more"] if len(cells) > SHOWN else []
        return (
            f"policies added: {_names(new.keys() - old.keys())}",
            f"policies removed: {_names(old.keys() - new.keys())}",
            f"policies changed: {_names({one for one in old.keys() & new.keys() if old[one] != new[one]})}",
            f"schema: {'changed' if schema else 'as before'}",
            f"of {len(cases)} tests that ship with Cloister {len(failed)} come out otherwise"
            + (f": {', '.join(failed[:SHOWN])}" if failed else ""),
            f"cells of the table that change for one role alone: {len(cells)}",
            *shown,
            *rest,
        )

    async def propose(self, peer: Peer, proposal: PolicyProposal) -> PolicySetInfo:
        """Put another set in force, where that is approved.

        Errors: InvalidInput where it is not valid or fails its tests; Conflict, Denied, ApprovalNeeded.
        """
        if sum(map(len, proposal.files.values())) > MAX_SET:
            raise InvalidInput(f"a policy set has at most {MAX_SET} characters")
        async with self._proposing:  # until it is in force: the next one is compared with this one
            proposed = await asyncio.to_thread(self._checked, self.in_force, proposal)
            passed = await self._approvals.gate(peer, "policy.change", {"files": proposal.files})
            told: dict[str, Any] = {
                "digests": {"before": self.in_force.digest, "after": proposed.digest},
                **passed.told,
            }
            await self._recorder.record(peer, "policy.change", origin="approved", **told)
            try:
                with self._state.change() as change:
                    passed.spend(change)
                    self._keep(change, proposed, "approved", passed.approval_id)
                    change.event("policy.changed", digest=proposed.digest)
            except CloisterError as error:  # whoever reads the ledger would take it for the set in force
                await self._recorder.record_taking_away(
                    peer, "policy.change", decision="abandoned", reason=error.code, **told
                )
                raise
            self.in_force, self._origin = proposed, "approved"
            self._looked_at = -LOOK_EVERY_S
            self._guard.policies = proposed
            self._recorder.policy = proposed.digest
            await self._register.void_others(proposed.digest)
            return self.info()

    def _checked(self, before: PolicySet, proposal: PolicyProposal) -> PolicySet:
        """The set, valid and with its tests passing; what it would change is noted. Errors: InvalidInput, Conflict."""
        proposed = PolicySet(proposal.files, "the proposed set")
        if proposed.digest == before.digest:
            raise Conflict("this set is in force already", where=proposed.digest)
        refuse_unknown_names(proposed, "the proposed set")
        if len(proposed.policies) > MAX_POLICIES:
            raise InvalidInput(f"a policy set has at most {MAX_POLICIES} policies")
        cases = [
            (name, case)
            for name, text in sorted(proposal.tests.items())
            for case in parse_cases(text.encode(), name)
        ]
        failed = [one for one in run_all(proposed, cases) if one.problem is not None]
        if failed:
            told = "; ".join(f"{one.where}: {one.problem}" for one in failed[:10])
            raise InvalidInput(f"{len(failed)} of {len(cases)} tests of this set fail: {told}")
        self._summaries = {proposed.digest: self._summary(before, proposed)}
        return proposed

    @staticmethod
    def _keep(change: Change, policies: PolicySet, origin: str, approval_id: str | None) -> None:
        for row in change.session.scalars(select(PolicySetRow).where(PolicySetRow.in_force)):
            row.in_force = False
        change.session.flush()
        change.session.merge(
            PolicySetRow(
                digest=policies.digest,
                files=policies.files,
                origin=origin,
                in_force=True,
                since=change.now,
                approval_id=approval_id,
            )
        )


def _row_in_force(session: Session) -> PolicySetRow | None:
    return session.scalars(select(PolicySetRow).where(PolicySetRow.in_force)).first()


def _told(cell: Cell, before: str) -> str:
    return json.dumps(
        f"{cell.doing} on a {cell.kind} ({cell.classification}), {cell.role}: {before} to {cell.demand}"
    ).strip('"')


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
