"""What stands in the way of a job's start and passes by itself is no failure of the job's."""

from __future__ import annotations

import errno

import pytest
from authority_world import World, moment

from cloister.api import JobState
from cloister.appliance import job_starts
from cloister.errors import LedgerUnavailable, OutOfSpace, Unavailable
from cloister.launcher import sandboxes


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_starts, "PUT_OFF_S", 0.05)


@moment
async def test_a_job_stays_queued_while_nothing_may_start(here: World) -> None:
    starts, refusals = here.authority.queue.starts, iter([LedgerUnavailable("full"), Unavailable("away")])
    refuse_work = starts._refuse_work

    def refuse() -> None:
        for error in refusals:
            raise error
        refuse_work()

    starts._refuse_work = refuse
    here.go.touch()
    job_id = await here.run()
    await here.reaches(job_id, JobState.DONE)
    assert next(refusals, None) is None and here.job(job_id).attempts == 1


@moment
async def test_a_job_stays_queued_while_the_state_cannot_be_written(here: World) -> None:
    starts, full = here.authority.queue.starts, iter([OutOfSpace("the disk")])
    begin = starts._begin

    def begun(*arguments: object) -> bool:
        for error in full:
            raise error
        return begin(*arguments)  # type: ignore[arg-type]

    starts._begin = begun  # type: ignore[method-assign]
    here.go.touch()
    job_id = await here.run()
    await here.reaches(job_id, JobState.DONE)
    assert here.job(job_id).attempts == 1


@moment
async def test_a_launcher_that_is_away_at_the_start_costs_an_attempt_and_no_job(here: World) -> None:
    launcher, away = here.authority.launcher, iter([Unavailable("the launcher does not run")])
    start = launcher.start

    async def started(*arguments: object) -> object:
        for error in away:
            raise error
        return await start(*arguments)  # type: ignore[arg-type]

    launcher.start = started  # type: ignore[assignment, method-assign]
    here.go.touch()
    job_id = await here.run()
    await here.reaches(job_id, JobState.DONE)
    assert here.job(job_id).attempts == 2 and "job.interrupted" in here.actions()


@moment
async def test_a_machine_that_is_short_of_processes_costs_an_attempt_and_no_job(here: World) -> None:
    spawn, short = sandboxes.spawn_sandbox, iter([OSError(errno.EAGAIN, "short")])

    def spawned(*arguments: object, **more: object) -> object:
        for error in short:
            raise error
        return spawn(*arguments, **more)  # type: ignore[arg-type]

    sandboxes.spawn_sandbox = spawned  # type: ignore[assignment]
    try:
        here.go.touch()
        job_id = await here.run()
        await here.reaches(job_id, JobState.DONE)
    finally:
        sandboxes.spawn_sandbox = spawn
    assert here.job(job_id).attempts == 2 and "job.failed" not in here.actions()
    (cut,) = [e for e in here.authority.ledger.entries(0, 10_000) if e["action"] == "job.interrupted"]
    assert "No process could be started just now" in cut["reason"]
