"""From data to a served model: what each gate asks by classification and evaluation, and who may pass it."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from authority_world import World, moment
from pydantic import ValidationError
from sqlalchemy import select

from cloister.api import (
    Approval,
    ApprovalDecision,
    ClassifyRequest,
    DatasetImport,
    Deployment,
    ImportConfig,
    JobState,
    ObjectKind,
    PolicyProposal,
    Run,
    RunRequest,
    ServeRequest,
    ShredRequest,
)
from cloister.appliance import guard as guard_module
from cloister.appliance import ssh_signatures
from cloister.appliance.approval_decisions import ApprovalDecisions
from cloister.appliance.approval_register import ApprovalRegister
from cloister.appliance.classifying import classify
from cloister.appliance.facts import dataset_class
from cloister.appliance.freezing import freeze_declassify, freeze_shred
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.state import ApprovalRow, JobRow, ObjectRow, RunRow
from cloister.errors import (
    ApprovalNeeded,
    CloisterError,
    Conflict,
    Denied,
    InvalidInput,
    LedgerUnavailable,
)
from cloister.policy.cedar import PolicySet
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


@gated
async def test_a_confidential_model_serves_measured_signed_and_comes_back_without_asking(
    gates: Gates,
) -> None:
    world = gates.world
    model = model_of(world, "good", "confidential", BETTER)
    with pytest.raises(Denied):
        await gates.serve(TRAINER, model)
    asked = await needed(gates.serve(OPERATOR, model))
    shown = gates.register.one(asked)
    assert shown.signature_needed and shown.classification == "confidential"
    assert any("loss 3.0000 to 0.5000" in line for line in shown.summary)
    await gates.approve(APPROVER, asked)
    first = await gates.serve(OPERATOR, model)
    await world.authority.serving.stop(OPERATOR, first.name)
    again = await gates.serve(OTHER, model)
    assert again.deployment_id != first.deployment_id, "a rollback takes the operator alone"
    assert gates.register.one(asked).state == "approved"
    await world.authority.serving.stop(OTHER, again.name)
    await needed(gates.serve(OPERATOR, model, max_model_len=64))
    starts = [e for e in world.authority.ledger.entries(0, 1000) if e["action"] == "deployment.start"]
    assert [e["details"]["approval"] for e in starts] == [asked, asked]


@gated
async def test_a_model_that_showed_nothing_is_not_promoted_by_anybody(gates: Gates) -> None:
    world = gates.world
    for number, evaluation in enumerate([None, {}, {"base": {"loss": 1.0}, "tuned": {"loss": 1.0}}]):
        model = model_of(world, f"unproved-{number}", "restricted", evaluation)
        with pytest.raises(Denied) as caught:
            await gates.serve(OPERATOR, model)
        assert "confidential-models-are-measured-before-they-serve" in (caught.value.remedy or "")
        await needed(gates.serve(OPERATOR, model_of(world, f"inner-{number}", "internal", evaluation)))


@gated
async def test_an_approval_of_other_results_does_not_count(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "shifting", "internal", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, asked)
    with world.authority.state.change() as change:
        run = change.session.query(RunRow).one()
        run.evaluation = {**BETTER, "tuned": {"loss": 0.4, "exact_match": 0.95}}
    assert await needed(gates.serve(OPERATOR, model)) != asked


@gated
async def test_restricted_data_takes_two_different_approvers(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "secret", "restricted", BETTER)
    world.stored(ObjectKind.BASE, "small")
    request = RunRequest(name="second", dataset="secret-data", base="small")
    trained = await needed(gates.train(request))
    await gates.approve(APPROVER, trained)
    run = await gates.train(request)
    assert run.created_by == TRAINER.account
    served = await needed(gates.serve(OPERATOR, model))
    with pytest.raises(Denied) as caught:
        await world.authority.guard.require(APPROVER, "approval.give", "Approval", served)
    assert "not-the-same-person-at-two-gates" in (caught.value.remedy or "")
    await world.authority.guard.require(SECOND, "approval.give", "Approval", served)
    await gates.approve(SECOND, served)
    await gates.serve(OPERATOR, model)


@gated
async def test_a_run_that_was_asked_for_and_then_changed_asks_again(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    request = RunRequest(name="one", dataset="notes", base="small")
    first = await needed(gates.train(request))
    bolder = RunRequest(name="one", dataset="notes", base="small", train={"learning_rate": 0.5})
    second = await needed(gates.train(bolder))
    assert gates.register.one(first).state == "void" and second != first
    await gates.approve(APPROVER, second)
    assert await needed(gates.train(request)) != first
    await gates.train(bolder)
    with pytest.raises(CloisterError):
        await gates.train(bolder)
    assert gates.register.one(second).state == "used"


@gated
async def test_two_at_once_use_an_approval_once(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    request = RunRequest(name="one", dataset="notes", base="small")
    await gates.approve(APPROVER, await needed(gates.train(request)))
    both = await asyncio.gather(*(gates.train(request) for _ in range(2)), return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in both) == 1
    assert len(world.authority.overview.runs()) == 1


@gated
async def test_asked_twice_at_once_is_one_request(gates: Gates) -> None:
    model = model_of(gates.world, "some", "internal", BETTER)
    both = await asyncio.gather(*(needed(gates.serve(OPERATOR, model)) for _ in range(2)))
    assert both[0] == both[1]
    entries = [e for e in gates.world.authority.ledger.entries(0, 1000) if e["action"] == "approval.request"]
    assert [e["objects"][0] for e in entries] == [both[0]], "no entry is of a request that is not there"


@gated
async def test_an_older_request_ends_only_when_the_new_one_is_there(gates: Gates) -> None:
    model = model_of(gates.world, "some", "internal", BETTER)
    first = await needed(gates.serve(OPERATOR, model))
    submit = gates.world.authority.ledger.submit

    def fails(entry: Any, **more: Any) -> Any:
        if entry.action == "approval.request":
            raise LedgerUnavailable("it refuses")
        return submit(entry, **more)

    gates.world.authority.ledger.submit = fails  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await gates.serve(OPERATOR, model, max_model_len=64)
    assert gates.register.one(first).state == "pending"
    gates.world.authority.ledger.submit = submit  # type: ignore[method-assign]
    await needed(gates.serve(OPERATOR, model, max_model_len=64))
    assert gates.register.one(first).state == "void"


@gated
async def test_a_dataset_that_nobody_classified_is_restricted(gates: Gates) -> None:
    world = gates.world
    world.stored(ObjectKind.DATASET, "old")
    assert world.authority.overview.object(ObjectKind.DATASET, "old").classification == "restricted"
    ticket = await world.authority.requests.import_dataset(
        world.peer, DatasetImport(name="new", config=ImportConfig(source_name="x"))
    )
    with world.authority.state.read() as session:
        assert dataset_class(session, ticket.job.subject or "") == "confidential"


@gated
async def test_an_appliance_of_one_account_asks_nobody(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "own", "restricted", None)
    await gates.serve(world.peer, model)
    await world.authority.serving.stop(world.peer, "desk")
    done = await world.authority.shredding.shred(
        world.peer, "dataset", "own-data", ShredRequest(confirm="own-data")
    )
    assert done.state == "done"
    assert world.authority.approval_register.listed() == []


@gated
async def test_a_paused_run_does_not_go_on_once_its_data_is_restricted(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "confidential", "x")
    run = await gates.train(RunRequest(name="one", dataset="notes", base="small"))
    job_id = run.train_job.job_id
    await world.runs(job_id)
    await world.authority.queue.pause(TRAINER, job_id)
    await world.reaches(job_id, JobState.PAUSED)
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    asked = await needed(world.authority.requests.resume_run(TRAINER, "one"))
    assert await needed(world.authority.requests.retry_run(TRAINER, "one")) == asked
    assert await needed(world.authority.queue.resume(TRAINER, job_id)) == asked
    await gates.approve(APPROVER, asked)
    await world.authority.requests.resume_run(TRAINER, "one")
    await world.runs(job_id)
    await world.authority.queue.pause(TRAINER, job_id)
    await world.reaches(job_id, JobState.PAUSED)
    await world.authority.requests.resume_run(TRAINER, "one")  # what was approved goes on under that approval
    await world.runs(job_id)


def waiting_run(name: str = "second") -> RunRequest:
    return RunRequest(name=name, dataset="notes", base="small", evaluate=None)


async def queued(gates: Gates) -> tuple[str, str]:
    """A confidential dataset, and the training of a run on it that waits behind another person's run."""
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "confidential", "x")
    first = (
        await gates.train(RunRequest(name="first", dataset="notes", base="small", evaluate=None))
    ).train_job
    await world.runs(first.job_id)
    second = (await gates.train(waiting_run())).train_job
    assert world.job(second.job_id).state == JobState.QUEUED
    return data, second.job_id


def attempts(world: World, job_id: str) -> list[str]:
    """What the ledger says was done with a job."""
    entries = world.authority.ledger.entries(0, 10_000)
    return [entry["action"] for entry in entries if job_id in entry["objects"]]


@gated
async def test_a_run_that_waited_is_asked_for_again_once_its_data_is_restricted(gates: Gates) -> None:
    world = gates.world
    data, job_id = await queued(gates)
    await world.authority.classifying.stricter(TRAINER, "notes", ClassifyRequest(classification="restricted"))
    world.go.touch()
    await world.reaches(job_id, JobState.INTERRUPTED)
    error = world.job(job_id).error
    assert error["code"] == "approval-needed" and "restricted data" in error["detail"]
    assert "cloister run resume second" in error["remedy"]
    assert attempts(world, job_id) == ["job.refused"] and world.job(job_id).attempts == 0
    refused = [e for e in world.authority.ledger.entries(0, 10_000) if e["action"] == "job.refused"]
    assert refused[0]["decision"] == "deny" and data in refused[0]["objects"]
    assert gates.register.listed() == [], "nobody asked for an approval"
    asked = await needed(world.authority.requests.resume_run(TRAINER, "second"))
    await gates.approve(APPROVER, asked)
    await world.authority.requests.resume_run(TRAINER, "second")
    await world.reaches(job_id, JobState.DONE)
    assert attempts(world, job_id) == ["job.refused", "job.resume", "job.train", "job.done"]


@gated
async def test_an_approved_run_that_waited_starts_unless_it_is_about_something_else_now(gates: Gates) -> None:
    world = gates.world
    data, job_id = await queued(gates)
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    await world.authority.queue.cancel(TRAINER, job_id)
    asked = await needed(world.authority.requests.resume_run(TRAINER, "second"))
    await gates.approve(APPROVER, asked)
    await world.authority.requests.resume_run(TRAINER, "second")
    third = await needed(gates.train(waiting_run("third")))
    await gates.approve(APPROVER, third)
    other = (await gates.train(waiting_run("third"))).train_job.job_id
    with world.authority.state.change() as change:  # the third's approval is of another policy set
        row = change.session.get_one(ApprovalRow, third)
        row.digest = "0" * 64
    world.go.touch()
    await world.reaches(job_id, JobState.DONE)
    await world.reaches(other, JobState.INTERRUPTED)
    assert world.job(other).error["code"] == "approval-needed"


@gated
async def test_a_run_that_waited_does_not_start_for_whoever_lost_the_role(gates: Gates) -> None:
    world = gates.world
    _, job_id = await queued(gates)
    guard = world.authority.guard
    before = guard.standing

    async def standing(peer: Peer) -> Standing:
        return (
            Standing(peer.account, frozenset({"auditor"})) if peer.uid == TRAINER.uid else await before(peer)
        )

    guard.standing = standing  # type: ignore[method-assign]
    world.go.touch()
    await world.reaches(job_id, JobState.INTERRUPTED)
    assert world.job(job_id).error["code"] == "denied" and "any more" in world.job(job_id).error["detail"]
    other = Peer(1, 40_009, 40_009)
    ROLES[other.uid] = "trainer"
    try:
        await world.authority.requests.resume_run(other, "second")  # from now on it is the other's
        await world.reaches(job_id, JobState.DONE)
    finally:
        del ROLES[other.uid]


@gated
async def test_a_classification_in_the_last_moment_counts(gates: Gates) -> None:
    """Between the question and the start lies an entry of the ledger."""
    world = gates.world
    data, job_id = await queued(gates)
    recorder = world.authority.recorder
    before = recorder.record

    async def record(actor: Peer | None, action: str, *objects: str, **more: Any) -> int:
        index = await before(actor, action, *objects, **more)
        if action == "job.train" and job_id in objects:
            with world.authority.state.change() as change:
                classify(change, data, "restricted", "x")
        return index

    recorder.record = record  # type: ignore[method-assign]
    world.go.touch()
    await world.reaches(job_id, JobState.INTERRUPTED)
    assert world.job(job_id).attempts == 0
    assert attempts(world, job_id) == ["job.train", "job.refused"]


@gated
async def test_a_name_is_never_taken_for_an_id(gates: Gates) -> None:
    world = gates.world
    patients = world.stored(ObjectKind.DATASET, "patients")
    decoy = world.stored(ObjectKind.DATASET, patients)  # as only an older state could hold it
    with world.authority.state.change() as change:
        classify(change, patients, "restricted", "x")
        classify(change, decoy, "internal", "x")
        frozen = freeze_declassify(
            change.session, {"reference": patients, "classification": "public"}, change.now
        )
    assert frozen.thing == patients and frozen.facts.classification == "restricted"
    with pytest.raises(ValidationError):
        DatasetImport(name=patients, config=ImportConfig(source_name="x"))


@gated
async def test_a_shred_is_as_strict_as_all_that_it_takes(gates: Gates) -> None:
    world = gates.world
    model_of(world, "secret", "restricted", BETTER)
    mild = world.stored(ObjectKind.DATASET, "mild-holdout")
    with world.authority.state.change() as change:
        classify(change, mild, "public", "x")
        adapter = change.session.scalars(select(ObjectRow).where(ObjectRow.name == "secret-adapter")).one()
        job = change.session.scalars(select(JobRow).where(JobRow.subject == adapter.object_id)).one()
        job.inputs = {"holdout": {"object_id": mild, "version": 1}}
        request = {"kind": "dataset", "reference": mild, "request": {"confirm": "mild-holdout"}}
        frozen = freeze_shred(change.session, request, change.now)
    assert any(adapter.object_id in line for line in frozen.summary)
    assert frozen.facts.classification == "restricted" and len(frozen.data) == 2


@gated
async def test_two_classifications_at_once_do_not_end_with_the_milder(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    with world.authority.state.change() as change:
        classify(change, data, "public", "x")
    told = await asyncio.gather(
        *(
            world.authority.classifying.stricter(world.peer, "notes", ClassifyRequest(classification=name))
            for name in ("internal", "restricted")
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Conflict) for one in told) == 1


@gated
async def test_what_changes_between_gate_and_act_stops_the_act(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "confidential", "x")
    record = world.authority.recorder.record

    async def slowly(*words: Any, **more: Any) -> int:
        with world.authority.state.change() as change:
            classify(change, data, "restricted", "x")
        return await record(*words, **more)

    world.authority.recorder.record = slowly  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="changed meanwhile"):
        await gates.train(RunRequest(name="one", dataset="notes", base="small"))
    assert world.authority.overview.runs() == []


@gated
async def test_one_approver_at_two_gates_at_once_passes_one(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "secret", "restricted", BETTER)
    world.stored(ObjectKind.BASE, "small")
    trained = await needed(gates.train(RunRequest(name="two", dataset="secret-data", base="small")))
    served = await needed(gates.serve(OPERATOR, model))
    both = await asyncio.gather(
        gates.approve(APPROVER, trained), gates.approve(APPROVER, served), return_exceptions=True
    )
    assert sum(isinstance(one, Denied) for one in both) == 1


@gated
async def test_an_approval_that_stands_can_be_taken_back(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "bad", "internal", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, asked)
    await gates.serve(OPERATOR, model)
    await world.authority.serving.stop(OPERATOR, "desk")
    decision = ApprovalDecision(digest=gates.register.one(asked).digest, reason="it insulted a client")
    taken = await gates.decisions.refuse(SECOND, asked, decision)
    assert taken.state == "refused" and taken.decided_by == APPROVER.account
    assert taken.reason == f"taken back by {SECOND.account}: it insulted a client"
    assert await needed(gates.serve(OPERATOR, model)) != asked


def later(world: World, **span: float) -> None:
    """The authority's clock goes on by that much."""
    clock, step = world.authority.state._clock, timedelta(**span)
    world.authority.state._clock = lambda: clock() + step


@gated
async def test_what_is_decided_too_late_says_since_when_and_what_is_decided_says_what_to_do(
    gates: Gates,
) -> None:
    asked = await needed(gates.serve(OPERATOR, model_of(gates.world, "some", "internal", BETTER)))
    await gates.approve(APPROVER, asked)
    with pytest.raises(Conflict, match="it is approved") as caught:
        await gates.decisions.withdraw(OPERATOR, asked)
    assert f"cloister approval refuse {asked}" in (caught.value.remedy or "")
    stands = gates.register.one(asked).stands_until
    later(gates.world, days=31)
    decision = ApprovalDecision(digest=gates.register.one(asked).digest, reason="no")
    with pytest.raises(Conflict, match=f"expired since {stands:%Y-%m-%d %H:%M} UTC"):
        await gates.decisions.refuse(SECOND, asked, decision)


@gated
async def test_a_request_that_ends_while_its_signature_is_checked_is_not_approved(gates: Gates) -> None:
    asked = await needed(gates.serve(OPERATOR, model_of(gates.world, "some", "confidential", BETTER)))
    verify = ssh_signatures.verify

    def slowly(*words: Any, **more: Any) -> str:
        later(gates.world, hours=80)
        return verify(*words, **more)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Conflict, match="it is expired since"):
        patch.setattr(ssh_signatures, "verify", slowly)
        await gates.approve(APPROVER, asked)
    actions = gates.world.actions()
    assert "approval.give" not in actions and actions[-1] == "approval.reject"


@gated
async def test_a_decision_that_comes_second_is_entered_as_refused(gates: Gates) -> None:
    asked = await needed(gates.serve(OPERATOR, model_of(gates.world, "some", "internal", BETTER)))
    both = await asyncio.gather(
        gates.approve(APPROVER, asked), gates.decisions.withdraw(OPERATOR, asked), return_exceptions=True
    )
    assert [type(one) for one in both if one is not None] in ([Conflict], [Conflict, Approval])
    assert gates.world.actions()[-1] == "approval.reject"


@gated
async def test_a_holdout_that_is_the_dataset_is_refused(gates: Gates) -> None:
    gates.world.stored(ObjectKind.DATASET, "notes")
    gates.world.stored(ObjectKind.BASE, "small")
    with pytest.raises(InvalidInput, match="hold-out is the dataset"):
        await gates.train(RunRequest(name="one", dataset="notes", base="small", holdout="notes"))


def proposal(gates: Gates, name: str) -> PolicyProposal:
    """The set in force and one policy more."""
    files = gates.world.authority.policy_sets.in_force.files
    more = f'@id("{name}")\npermit (principal in Role::"admin", action == Action::"run.list", resource);\n'
    return PolicyProposal(files={**files, f"{name}.cedar": more})


@gated
async def test_a_policy_change_is_compared_with_the_set_that_its_digest_names(gates: Gates) -> None:
    recorder, sets = gates.world.authority.recorder, gates.world.authority.policy_sets
    first, second = proposal(gates, "the-first"), proposal(gates, "the-second")
    await gates.approve(APPROVER, await needed(sets.propose(ADMIN, first)))
    entered, computed, released = threading.Event(), threading.Event(), threading.Event()
    record, checked, asked = recorder.record, sets._checked, []

    def held(*words: Any) -> PolicySet:
        if words[-1] is not second:
            return checked(*words)
        entered.set()
        found = checked(*words)
        computed.set()
        released.wait(10)
        return found

    async def slowly(*words: Any, **more: Any) -> int:
        if words[1] == "policy.change":
            asked.append(asyncio.create_task(needed(sets.propose(ADMIN, second))))
            if await asyncio.to_thread(entered.wait, 0.3):
                await asyncio.to_thread(computed.wait, 10)
        return await record(*words, **more)

    sets._checked, recorder.record = held, slowly  # type: ignore[method-assign]
    await sets.propose(ADMIN, first)
    released.set()
    summary = gates.register.one(await asked[0]).summary
    assert "policies removed: the-first" in summary and "policies added: the-second" in summary


@gated
async def test_a_policy_change_that_did_not_come_about_is_entered_as_abandoned(gates: Gates) -> None:
    world, recorder = gates.world, gates.world.authority.recorder
    before = world.authority.policy_sets.in_force.digest
    change = proposal(gates, "some-more")
    asked = await needed(world.authority.policy_sets.propose(ADMIN, change))
    await gates.approve(APPROVER, asked)
    record = recorder.record

    async def slowly(*words: Any, **more: Any) -> int:
        index = await record(*words, **more)
        if words[1] == "policy.change":
            decision = ApprovalDecision(digest=gates.register.one(asked).digest, reason="on second thoughts")
            await gates.decisions.refuse(SECOND, asked, decision)
        return index

    recorder.record = slowly  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="refused"):
        await world.authority.policy_sets.propose(ADMIN, change)
    entries = [e for e in world.authority.ledger.entries(0, 1000) if e["action"] == "policy.change"]
    assert [e["decision"] for e in entries] == [None, None, "abandoned"]
    assert entries[1]["digests"] == entries[2]["digests"]
    assert world.authority.policy_sets.in_force.digest == before == world.authority.guard.policies.digest


@gated
async def test_another_set_at_a_start_ends_what_was_approved_under_the_one_before(gates: Gates) -> None:
    world = gates.world
    given = await needed(gates.serve(OPERATOR, model_of(world, "some", "internal", BETTER)))
    await gates.approve(APPROVER, given)
    change = proposal(gates, "some-more")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in change.files.items():
            Path(folder, name).write_text(text)
        await world.restart(access={"policies": folder})
        assert gates.register.one(given).state == "approved"
        load, threads = PolicySet.load, []

        def noted(path: Path) -> PolicySet:
            threads.append(threading.current_thread())
            return load(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PolicySet, "load", noted)
            warnings = (await world.authority.overview.status()).warnings
        assert any(f"the policies in {folder} are not those in force" in one for one in warnings)
        assert len(threads) == 1 and threads[0] is not threading.main_thread(), "it takes long"
        digest = PolicySet(change.files, "").digest
        await world.restart(access={"policies": folder, "accept_policies": digest})
    assert gates.register.one(given).state == "void"
    assert world.actions().count("approval.void") == 1


@gated
async def test_what_no_longer_stands_ends_with_a_failed_ledger_too(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "some", "internal", BETTER)
    asked = [await needed(gates.serve(person, model)) for person in (OPERATOR, OTHER)]

    def fails(*words: Any, **more: Any) -> Any:
        raise LedgerUnavailable("it refuses")

    submit, world.authority.ledger.submit = world.authority.ledger.submit, fails  # type: ignore[method-assign]
    await gates.register.void_others("0" * 64)
    assert {gates.register.one(one).state for one in asked} == {"void"}
    world.authority.ledger.submit = submit  # type: ignore[method-assign]
    await world.authority.recorder.enter_owed()
    assert world.actions().count("approval.void") == 2


@gated
async def test_a_shred_that_the_ledger_refuses_keeps_its_approval(gates: Gates) -> None:
    world, ledger = gates.world, gates.world.authority.ledger
    world.stored(ObjectKind.DATASET, "notes")
    submit, request = ledger.submit, ShredRequest(confirm="notes")
    asked = await needed(world.authority.shredding.shred(STEWARD, "dataset", "notes", request))
    await gates.approve(APPROVER, asked)

    def fails(entry: Any, **more: Any) -> Any:
        if entry.action == "dataset.shred":
            raise LedgerUnavailable("it refuses")
        return submit(entry, **more)

    ledger.submit = fails  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await world.authority.shredding.shred(STEWARD, "dataset", "notes", request)
    assert gates.register.one(asked).state == "approved", "nothing was entered, and nothing destroyed"
    ledger.submit = submit  # type: ignore[method-assign]
    done = await world.authority.shredding.shred(STEWARD, "dataset", "notes", request)
    assert done.state == "done" and gates.register.one(asked).state == "used"


@gated
async def test_a_shred_asked_for_ahead_is_decided_on_again_when_it_begins(gates: Gates) -> None:
    authority = gates.world.authority
    files = dict(authority.policy_sets.in_force.files)
    always = 'action == Action::"shred.start", resource)\nwhen { !(principal in Role::"sole") }'
    assert always in files["approvals.cedar"]
    milder = always.replace('!(principal in Role::"sole")', 'resource.classification == "restricted"')
    files["approvals.cedar"] = files["approvals.cedar"].replace(always, milder)
    authority.guard.policies = PolicySet(files, "")
    states = []
    for name, classification in (("mild", "internal"), ("raised", "restricted")):
        data = gates.world.stored(ObjectKind.DATASET, name)
        with authority.state.change() as change:  # as forgetting does when its job is done
            classify(change, data, classification, "x")
            request = ShredRequest(confirm=name, version=1)
            row = authority.shredding.ask(change, STEWARD.account, "dataset", data, name, request)
        authority.shredding.kick()
        await gates.world.until(lambda row=row: authority.shredding.one(row.shred_id).done_at)
        states.append(authority.shredding.one(row.shred_id).state)
    assert states == ["done", "abandoned"]
    assert authority.overview.object(ObjectKind.DATASET, "raised").name == "raised"


def denied(world: World, account: str) -> list[Any]:
    """What the ledger has of refusals to an account: thing, and whether there was more."""
    entries = [e for e in world.authority.ledger.entries(0, 1000) if e["action"] == "access.deny"]
    return [(e["details"]["thing"], "more" in e["details"]) for e in entries if e["actor"] == account]


@gated
async def test_each_thing_that_was_refused_is_named_and_a_flood_fills_no_ledger(gates: Gates) -> None:
    guard = gates.world.authority.guard

    async def ask(peer: Peer, thing: str, action: str = "shred.start", kind: str = "Dataset") -> None:
        with pytest.raises(Denied):
            await guard.require(peer, action, kind, thing)

    for thing in ("one", "two", "one", "no name\x1b", "another of those"):
        await ask(TRAINER, thing)
    assert denied(gates.world, TRAINER.account) == [("one", False), ("two", False), (None, False)]
    for number in range(100):
        await ask(OPERATOR, f"ds-{number}")
    await ask(OPERATOR, "run", "run.start", "Run")
    entered = denied(gates.world, OPERATOR.account)
    assert entered[:32] == [(f"ds-{number}", False) for number in range(32)]
    assert entered[32:] == [("ds-32", True), ("run", False)], "another action is still named"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_module, "QUIET_S", 0.0)
        await ask(TRAINER, "one")
    assert denied(gates.world, TRAINER.account)[-1] == ("one", False), "named again when the minute is over"


@gated
async def test_a_refusal_that_could_not_be_entered_is_entered_the_next_time(gates: Gates) -> None:
    authority = gates.world.authority
    submit = authority.ledger.submit

    def fails(*words: Any, **more: Any) -> Any:
        raise LedgerUnavailable("it refuses")

    for works in (fails, submit):
        authority.ledger.submit = works  # type: ignore[method-assign]
        with pytest.raises(Denied):
            await authority.guard.require(TRAINER, "shred.start", "Dataset", "one")
    assert denied(gates.world, TRAINER.account) == [("one", False)]
