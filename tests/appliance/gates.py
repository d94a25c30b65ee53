"""People with a role each, and what they ask for at the gates: for tests of approvals, in one process."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from authority_world import World, moment

from cloister.api import (
    ApprovalDecision,
    Deployment,
    ObjectKind,
    Run,
    RunRequest,
    ServeRequest,
)
from cloister.appliance.approval_decisions import ApprovalDecisions
from cloister.appliance.approval_register import ApprovalRegister
from cloister.appliance.classifying import classify
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.errors import (
    ApprovalNeeded,
)
from cloister.policy.roles import Standing

OPERATOR, OTHER, APPROVER, SECOND, TRAINER, ADMIN, STEWARD = (
    Peer(1, 40_000 + n, 40_000 + n) for n in range(7)
)


ROLES = {
    OPERATOR.uid: "operator",
    OTHER.uid: "operator",
    APPROVER.uid: "approver",
    SECOND.uid: "approver",
    TRAINER.uid: "trainer",
    ADMIN.uid: "admin",
    STEWARD.uid: "steward",
}


BETTER = {"base": {"loss": 3.0, "exact_match": 0.0}, "tuned": {"loss": 0.5, "exact_match": 0.9}, "rows": 10}


@dataclass
class Gates:
    """A world whose authority takes its callers for people with roles; the approvers have SSH keys."""

    world: World
    keys: Path

    @property
    def register(self) -> ApprovalRegister:
        return self.world.authority.approval_register

    @property
    def decisions(self) -> ApprovalDecisions:
        return self.world.authority.approval_decisions

    def sign(self, peer: Peer, document: str) -> str:
        command = ["ssh-keygen", "-Y", "sign", "-n", "cloister-approval", "-f", str(self.keys / peer.account)]
        ended = subprocess.run(command, input=document.encode(), capture_output=True, check=True)
        return ended.stdout.decode()

    async def approve(self, peer: Peer, approval_id: str) -> None:
        shown = self.register.one(approval_id)
        signature = self.sign(peer, shown.document) if shown.signature_needed else None
        decision = ApprovalDecision(digest=shown.digest, signature=signature)
        await self.decisions.give(peer, approval_id, decision)

    async def serve(self, peer: Peer, model: str, **config: Any) -> Deployment:
        return await self.world.authority.serve(peer, ServeRequest(name="desk", model=model, config=config))

    async def train(self, request: RunRequest) -> Run:
        return await self.world.authority.requests.start_run(TRAINER, request)


def gated(test: Callable[[Gates], Awaitable[None]]) -> Callable[[], None]:
    """A test in a world of its own, with people in it."""

    async def inside(world: World) -> None:
        async def standing(peer: Peer) -> Standing:
            return Standing(peer.account, frozenset({ROLES.get(peer.uid, "sole")}))

        with tempfile.TemporaryDirectory() as folder:
            allowed = []
            for peer in (APPROVER, SECOND):
                path = Path(folder, peer.account)
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
                allowed.append(f"{peer.account} {Path(f'{path}.pub').read_text()}")
            world.home.allowed_signers.write_text("".join(allowed))
            world.authority.guard.standing = standing  # type: ignore[method-assign]
            await test(Gates(world, Path(folder)))

    inside.__name__, inside.__doc__ = test.__name__, test.__doc__
    return moment(inside)


def model_of(world: World, name: str, classification: str, evaluation: dict[str, Any] | None) -> str:
    """A merged model of a run on a dataset of that classification, as the state has it."""
    dataset = world.stored(ObjectKind.DATASET, f"{name}-data")
    adapter = world.stored(ObjectKind.ADAPTER, f"{name}-adapter")
    model = world.stored(ObjectKind.MODEL, name)
    job = new_id("job")
    with world.authority.state.change() as change:
        classify(change, dataset, classification, "x")
        change.session.get_one(ObjectRow, (adapter, 1)).inputs = [dataset]
        change.session.get_one(ObjectRow, (model, 1)).inputs = [dataset, adapter]
        change.session.add(
            JobRow(
                job_id=job,
                verb="train",
                state="done",
                subject=adapter,
                name=name,
                config={},
                inputs={},
                requested_by="x",
                created_at=change.now,
            )
        )
        change.session.add(
            RunRow(
                run_id=new_id("run"),
                name=f"{name}-run",
                dataset=dataset,
                base="bm-none",
                train={},
                created_at=change.now,
                created_by="x",
                train_job=job,
                adapter=adapter,
                evaluation=evaluation,
            )
        )
    return model


async def needed(doing: Any) -> str:
    with pytest.raises(ApprovalNeeded) as caught:
        await doing
    return str(caught.value.values["approval"])
