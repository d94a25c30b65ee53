"""A run that waited, paused or queued, is asked for again before it starts: by who asked, on the data as it is now."""

from __future__ import annotations

from typing import Any

import pytest
from authority_world import World
from gates import (
    APPROVER,
    ROLES,
    TRAINER,
    Gates,
    gated,
    needed,
)

from cloister.api import (
    ClassifyRequest,
    JobState,
    ObjectKind,
    RunRequest,
)
from cloister.appliance import job_starts, ssh_signatures
from cloister.appliance.classifying import classify
from cloister.appliance.peer import Peer
from cloister.appliance.state import ApprovalRow
from cloister.policy.roles import Standing


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
async def test_a_run_whose_approval_cannot_be_checked_just_now_waits_and_others_go_first(
    gates: Gates,
) -> None:
    world = gates.world
    data, _ = await queued(gates)
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    asked = await needed(gates.train(waiting_run("third")))
    await gates.approve(APPROVER, asked)
    job_id = (await gates.train(waiting_run("third"))).train_job.job_id
    with world.authority.state.change() as change:
        classify(change, world.stored(ObjectKind.DATASET, "open"), "internal", "x")
    other = RunRequest(name="other", dataset="open", base="small", evaluate=None)
    behind = (await gates.train(other)).train_job.job_id
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssh_signatures, "LIMIT_S", 0.0)  # ssh-keygen does not answer in this time
        patch.setattr(job_starts, "PUT_OFF_S", 0.5)
        world.go.touch()
        await world.reaches(behind, JobState.DONE)
        await world.until(lambda: job_id in world.authority.queue.lacking)
        assert world.job(job_id).state == JobState.QUEUED and attempts(world, job_id) == []
        assert "ssh-keygen" in world.authority.queue.lacking[job_id]
    await world.reaches(job_id, JobState.DONE)
    assert attempts(world, job_id) == ["job.train", "job.done"]


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
