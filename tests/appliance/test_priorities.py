"""The place of a job in the queue: put behind others by whoever asked for it, before them by who may, and entered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.appliance.authority_world import PEER, World, moment

from cloister.api import JobState, ObjectKind, RunRequest
from cloister.appliance.catalogue import find
from cloister.appliance.classifying import classify
from cloister.errors import Conflict, Denied, NotFound
from cloister.policy.roles import Standing

TRAINER = frozenset({"trainer"})


def as_roles(here: World, patch: pytest.MonkeyPatch, roles: frozenset[str]) -> None:
    async def standing(peer: object) -> Standing:
        return replace(await really(peer), roles=roles)  # type: ignore[arg-type]

    really = here.authority.guard.standing
    patch.setattr(here.authority.guard, "standing", standing)


@moment
async def test_one_that_was_put_before_others_starts_first(here: World) -> None:
    first, later, urgent = [await here.run(name) for name in ("first", "later", "urgent")]
    await here.runs(first)
    priorities = here.authority.priorities
    await priorities.put_ahead(PEER, urgent, 5)
    await priorities.put_behind(PEER, later, -1)
    await priorities.put_ahead(PEER, later, 1)
    entries = [e for e in here.authority.ledger.entries(0, 1000) if e["action"] in ("job.raise", "job.lower")]
    assert [
        (e["action"], e["objects"], e["details"]["before"], e["details"]["priority"]) for e in entries
    ] == [
        ("job.raise", [urgent], 0, 5),
        ("job.lower", [later], 0, -1),
        ("job.raise", [later], -1, 1),
    ]
    here.go.touch()
    for job_id in (first, later, urgent):
        await here.reaches(job_id, JobState.DONE)
    assert here.job(urgent).started_at < here.job(later).started_at


@moment
async def test_what_is_asked_for_is_what_is_done(here: World) -> None:
    """To lower is allowed to people to whom it is not to raise."""
    first, job_id = await here.run("first"), await here.run("second")
    priorities = here.authority.priorities
    for change, wanted in (
        (priorities.put_behind, 5),
        (priorities.put_behind, 0),
        (priorities.put_ahead, -5),
    ):
        with pytest.raises(Conflict, match="its priority is 0"):
            await change(PEER, job_id, wanted)
    with pytest.raises(NotFound):
        await priorities.put_ahead(PEER, "jb-000000000000", 5)
    here.go.touch()
    await here.reaches(first, JobState.DONE)
    with pytest.raises(Conflict, match="done"):
        await priorities.put_ahead(PEER, first, 5)
    assert not {"job.raise", "job.lower"} & set(here.actions())


@moment
async def test_a_run_starts_behind_others_by_whoever_trains_and_before_them_by_who_may(here: World) -> None:
    def asked(name: str, priority: int) -> RunRequest:
        return RunRequest(name=name, dataset="rows", base="base", evaluate=None, priority=priority)

    first = await here.run("first")
    await here.runs(first)
    facts = here.authority.guard._facts
    with pytest.MonkeyPatch.context() as patch:
        as_roles(here, patch, TRAINER)
        with pytest.raises(Denied, match="put a job before others") as caught:
            await here.authority.requests.start_run(PEER, asked("urgent", 1))
        assert caught.value.remedy == "The role operator may."
        with here.authority.state.change() as change:  # so that no approval is asked for
            classify(change, find(change.session, ObjectKind.DATASET, "rows").object_id, "internal", "x")
        behind = (await here.authority.requests.start_run(PEER, asked("behind", -3))).train_job.job_id
        for action in ("job.lower", "job.raise"):
            question = here.authority.guard.question(
                PEER, await here.authority.guard.standing(PEER), action, "Job", behind
            )
            assert question.facts.requester == PEER.uid
            assert here.authority.guard.policies.decide(question).allowed is (action == "job.lower")
    assert facts("Job", "jb-000000000000").requester == -1
    assert here.job(behind).priority == -3
    assert "access.deny" in here.actions()
