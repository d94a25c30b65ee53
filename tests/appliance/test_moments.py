"""What happens between two steps: a cancel as a job ends, a stop as an engine starts, a result while locked.

An authority and a launcher in this process (`authority_world`), so that each moment can be met on purpose.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from authority_world import PEER, World, moment, start_launcher  # type: ignore[import-not-found]
from pydantic import ValidationError

from cloister.api import (
    DatasetImport,
    Event,
    ImportConfig,
    JobState,
    LockRequest,
    ObjectKind,
    RunRequest,
    ServeRequest,
    TrainConfig,
)
from cloister.appliance import queue as queue_module
from cloister.appliance.side import Delivery
from cloister.appliance.state import DeploymentRow, ObjectRow
from cloister.errors import Conflict, InvalidInput, LedgerUnavailable, Locked, Unavailable


@moment
async def test_a_job_cancelled_before_its_start_can_be_resumed(here: World) -> None:
    here.authority.queue.paused = True
    job_id = await here.run()
    await here.authority.queue.cancel(PEER, job_id)
    assert here.job(job_id).state == JobState.CANCELLED
    here.authority.queue.paused = False
    here.go.touch()
    await here.authority.queue.resume(PEER, job_id)
    await here.reaches(job_id, JobState.DONE)


@moment
async def test_a_start_that_was_cut_off_after_its_key_was_made_goes_on(here: World) -> None:
    here.authority.queue.paused = True
    job_id = await here.run()
    here.authority.seal.vault.new_data_key(here.job(job_id).subject)
    here.go.touch()
    here.authority.queue.paused = False
    await here.reaches(job_id, JobState.DONE)


@moment
async def test_a_cancel_that_comes_as_a_job_ends_does_not_undo_it(here: World) -> None:
    job_id = await here.run()
    await here.reaches(job_id, JobState.RUNNING)
    enter = here.authority.recorder.record_taking_away

    async def slowly(*arguments: Any, **more: Any) -> None:
        here.go.touch()
        await here.until(lambda: job_id not in here.authority.queue.known)
        await enter(*arguments, **more)

    here.authority.recorder.record_taking_away = slowly  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="done already"):
        await here.authority.queue.cancel(PEER, job_id)
    assert here.job(job_id).state == JobState.DONE


@moment
async def test_two_resumes_at_once_queue_a_job_once(here: World) -> None:
    here.authority.queue.paused = True
    job_id = await here.run()
    await here.authority.queue.cancel(PEER, job_id)
    two = [here.authority.queue.resume(PEER, job_id) for _ in range(2)]
    outcomes = await asyncio.gather(*two, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [Conflict]
    here.authority.queue.paused = False
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)
    assert here.job(job_id).attempts == 1


@moment
async def test_two_runs_of_one_name_at_once_are_one_and_a_conflict(here: World) -> None:
    outcomes = await asyncio.gather(here.run("same"), here.run("same"), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "str"]


@moment
async def test_without_a_launcher_requests_are_refused_and_the_queue_waits(here: World) -> None:
    here.authority.queue.paused = True
    job_id = await here.run()
    await here.end_launcher()
    with pytest.raises(Unavailable):
        await here.run("second")
    here.authority.queue.paused = False
    await asyncio.sleep(1.2)
    assert here.job(job_id).state == JobState.QUEUED
    here.launcher, here.serving = start_launcher(here.home)
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)


@moment
async def test_a_result_that_came_while_locked_outlives_authority_and_launcher(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    await here.restart()
    here.go.touch()
    await here.until(lambda: here.job(job_id).result)
    async with asyncio.timeout(60):  # what waits for the vault does not hold up its lock
        await here.authority.lock(PEER, LockRequest(mode="drain"))
    await here.restart(launcher=True)
    assert here.job(job_id).state == JobState.RUNNING
    await here.unlock()
    await here.reaches(job_id, JobState.DONE)
    with here.authority.state.read() as session:
        assert session.get(ObjectRow, (here.job(job_id).subject, 1)) is not None


@moment
async def test_a_result_waits_while_the_ledger_refuses(here: World) -> None:
    job_id = await here.run()
    await here.reaches(job_id, JobState.RUNNING)
    enter = here.authority.recorder.record

    async def refuse(*_: Any, **__: Any) -> int:
        raise LedgerUnavailable("no")

    here.authority.recorder.record = refuse  # type: ignore[method-assign]
    here.go.touch()
    await here.until(lambda: here.job(job_id).result)
    await asyncio.sleep(0.1)
    assert here.job(job_id).state == JobState.RUNNING
    here.authority.recorder.record = enter  # type: ignore[method-assign]
    await here.reaches(job_id, JobState.DONE)


@moment
async def test_cutting_to_lock_interrupts_a_run_also_while_locked(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    await here.restart()
    with pytest.raises(Conflict):
        await here.authority.lock(PEER, LockRequest())
    async with asyncio.timeout(60):
        await here.authority.lock(PEER, LockRequest(mode="cut"))
    row = here.job(job_id)
    assert (row.state, row.error["code"]) == (JobState.INTERRUPTED, "interrupted")


@moment
async def test_an_import_keeps_its_system_message_out_of_the_state(here: World) -> None:
    prompt = "nobody may read this message"
    ticket = await here.authority.requests.import_dataset(
        PEER, DatasetImport(name="d", config=ImportConfig(source_name="s", system_prompt=prompt))
    )
    job_id = ticket.job.job_id
    here.authority.queue.deliver(Delivery(job_id, {"source": os.open(os.devnull, os.O_RDONLY)}))
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)
    assert (here.home.root / "told").read_text() == prompt
    for path in here.home.state.parent.iterdir():
        assert prompt.encode() not in path.read_bytes(), path


@moment
async def test_a_job_whose_source_never_comes_gives_its_name_back(here: World) -> None:
    ticket = await here.authority.requests.import_dataset(
        PEER, DatasetImport(name="d", config=ImportConfig(source_name="s"))
    )
    waits, queue_module.SOURCE_WAIT_S = queue_module.SOURCE_WAIT_S, 0.0
    try:
        await here.reaches(ticket.job.job_id, JobState.INTERRUPTED)
    finally:
        queue_module.SOURCE_WAIT_S = waits
    await here.authority.requests.import_dataset(
        PEER, DatasetImport(name="d", config=ImportConfig(source_name="s"))
    )


@moment
async def test_numbers_without_a_canonical_form_are_refused_at_once(here: World) -> None:
    """The form refuses them, by name; what came past it would be refused before anything is queued."""
    with pytest.raises(ValidationError, match="seed"):
        TrainConfig(seed=1 << 60)
    train = TrainConfig().model_copy(update={"seed": 1 << 60})
    request = RunRequest(name="r", dataset="rows", base="base").model_copy(update={"train": train})
    with pytest.raises((InvalidInput, ValidationError)):
        await here.authority.requests.start_run(PEER, request)
    assert not {"run.start", "job.train"} & set(here.actions())


@moment
async def test_a_stop_at_any_moment_of_a_start_leaves_no_engine(here: World) -> None:
    here.stored(ObjectKind.MODEL, "model")
    launching = asyncio.Event()
    end = here.authority.launcher.stop

    async def tell(sandbox_id: str, grace_s: float = 10.0) -> Any:
        if grace_s == 0:  # what comes before each start of an engine
            launching.set()
        return await end(sandbox_id, grace_s)

    here.authority.launcher.stop = tell  # type: ignore[method-assign]
    for turns in range(12):
        launching.clear()
        served = await here.authority.serve(PEER, ServeRequest(name="m", model="model"))
        await launching.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        stopped = await here.authority.serving.stop(PEER, served.deployment_id)
        assert stopped.state == "stopped"
        await here.until(lambda: here.authority.serving.live == [])
        await asyncio.sleep(0.05)
        assert await here.running() == []


@moment
async def test_locking_stops_what_is_served_and_refuses_more(here: World) -> None:
    here.stored(ObjectKind.MODEL, "model")
    await here.authority.serve(PEER, ServeRequest(name="m", model="model"))
    with pytest.raises(Conflict):
        await here.authority.lock(PEER, LockRequest())
    locking = asyncio.create_task(here.authority.lock(PEER, LockRequest(mode="drain")))
    await asyncio.sleep(0)
    with pytest.raises((Conflict, Locked)):
        await here.authority.serve(PEER, ServeRequest(name="n", model="model"))
    await locking
    assert here.authority.seal.locked
    assert await here.running() == []


@moment
async def test_an_engine_that_nobody_asks_for_is_ended_at_the_next_start(here: World) -> None:
    here.stored(ObjectKind.MODEL, "model")
    served = await here.authority.serve(PEER, ServeRequest(name="m", model="model"))
    await here.runs(served.deployment_id)
    with here.authority.state.change() as change:
        change.session.get_one(DeploymentRow, served.deployment_id).state = "stopped"
    await here.restart()
    assert await here.running() == []
    assert here.actions()[-2:] == ["authority.start", "sandbox.stop"]


@moment
async def test_what_is_owed_is_entered_once_each(here: World) -> None:
    recorder = here.authority.recorder
    for number in range(5):
        owed = recorder._owed
        owed.keep(owed.note(recorder.entry(None, f"owed.{number}"), here.authority.ledger.size, None))
    await asyncio.gather(*(recorder.record(None, f"new.{number}") for number in range(5)))
    assert sorted(action for action in here.actions() if action.startswith("owed")) == [
        f"owed.{number}" for number in range(5)
    ]
    assert recorder.owed == 0


@moment
async def test_a_ledger_that_fails_while_locking_keeps_no_key(here: World) -> None:
    def fail() -> None:
        raise LedgerUnavailable("no")

    here.authority.ledger.flush = fail  # type: ignore[method-assign]
    vault = here.authority.seal.vault
    await here.authority.lock(PEER, LockRequest())
    assert vault.locked


@moment
async def test_events_have_no_gap_and_no_double(here: World) -> None:
    here.go.touch()
    job_id = await here.run()
    await here.reaches(job_id, JobState.DONE)
    events: list[Event] = here.authority.state.events_after(0)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    states = [e.data["state"] for e in events if e.subject == job_id and e.kind == "job.state"]
    assert states == ["queued", "running", "done"]


@moment
async def test_a_burst_of_metrics_is_kept_whole_with_few_commits(here: World) -> None:
    (here.home.root / "lines").write_text("500")
    before = here.authority.state._changes
    here.go.touch()
    job_id = await here.run()
    await here.reaches(job_id, JobState.DONE)
    row = here.job(job_id)
    assert (row.last_event, row.metrics) == (500, {"step": 499.0, "loss": 1 / 500})
    events = here.authority.state.events_after(0, 1000)
    steps = [event.data["step"] for event in events if event.kind == "job.metrics"]
    assert steps == list(range(500))
    assert here.authority.state._changes - before < 100
