"""However a job ends, it ends once, and as it should: while the state takes nothing, and as somebody stops it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from authority_world import PEER, World, make, moment, start_launcher

from cloister.api import DeploymentState, JobState, ObjectKind, ReportConfig, ReportRequest, ServeRequest
from cloister.appliance import endings, job_starts, queue, serving
from cloister.appliance.engine_watch import mark
from cloister.appliance.store import Change
from cloister.errors import Conflict, LedgerUnavailable, OutOfSpace
from cloister.launcher import wire


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "RETRY_S", 0.02)
    monkeypatch.setattr(queue, "STOPPED_S", 0.5)
    monkeypatch.setattr(serving, "UNKEPT_S", 0.02)
    monkeypatch.setattr(job_starts, "PUT_OFF_S", 0.05)


class Full:
    """The state, which takes nothing so many times."""

    def __init__(self, here: World, times: int = 3) -> None:
        self._state = here.authority.state
        self.left = times
        here.authority.queue._endings._state = self  # type: ignore[assignment]

    @contextmanager
    def change(self) -> Iterator[Change]:
        if self.left:
            self.left -= 1
            raise OutOfSpace("the state could not be written")
        with self._state.change() as change:
            yield change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


async def kill_workers(here: World) -> None:
    for sandbox in await here.authority.launcher.list():
        os.kill(sandbox.pid, signal.SIGKILL)


@moment
async def test_a_killed_run_goes_on_once_the_state_takes_that_it_was_cut_off(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    full = Full(here)
    await kill_workers(here)
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)
    assert full.left == 0 and here.job(job_id).attempts == 2
    assert "job.failed" not in here.actions() and here.actions().count("job.interrupted") == 1


@moment
async def test_a_cancelled_run_is_cancelled_once_the_state_takes_it(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    full = Full(here)
    await here.authority.queue.cancel(PEER, job_id)
    await here.reaches(job_id, JobState.CANCELLED)
    assert full.left == 0 and "job.failed" not in here.actions()


@moment
async def test_a_cancel_as_a_killed_run_goes_back_into_the_queue_counts(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    forget = here.authority.launcher.forget

    async def meanwhile(sandbox_id: str) -> None:
        here.authority.launcher.forget = forget  # type: ignore[method-assign]
        assert here.job(job_id).state == JobState.QUEUED
        await here.authority.queue.cancel(PEER, job_id)
        await forget(sandbox_id)

    here.authority.launcher.forget = meanwhile  # type: ignore[method-assign]
    await kill_workers(here)
    await here.reaches(job_id, JobState.CANCELLED)
    await asyncio.sleep(0.3)
    assert here.job(job_id).state == JobState.CANCELLED and here.job(job_id).attempts == 1


@moment
async def test_a_pause_or_an_engine_does_not_undo_a_cancel(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    jobs, stop = here.authority.queue, here.authority.launcher.stop
    others: list[Any] = []

    async def meanwhile(*arguments: Any) -> Any:
        here.authority.launcher.stop = stop  # type: ignore[method-assign]
        for other in (jobs.pause(PEER, job_id), jobs.cancel(None, job_id, JobState.QUEUED)):
            others.append((await asyncio.gather(other, return_exceptions=True))[0])
        return await stop(*arguments)

    here.authority.launcher.stop = meanwhile  # type: ignore[method-assign]
    await jobs.cancel(PEER, job_id)
    await here.reaches(job_id, JobState.CANCELLED)
    await asyncio.sleep(0.3)
    assert here.job(job_id).state == JobState.CANCELLED
    assert [type(one) for one in others] == [Conflict, Conflict] and "job.pause" not in here.actions()


@moment
async def test_the_stronger_of_two_wishes_at_once_counts(here: World) -> None:
    """Both are being entered: neither knows of the other yet."""
    job_id = await here.run()
    await here.runs(job_id)
    jobs, stop = here.authority.queue, here.authority.launcher.stop
    enter = here.authority.recorder.record_taking_away

    async def slowly(actor: Any, action: str, *rest: Any, **more: Any) -> bool:
        entered = await enter(actor, action, *rest, **more)
        if action == "job.yield":
            await here.until(lambda: jobs._endings.is_stopping(job_id))
        return entered

    async def later(*arguments: Any) -> Any:
        await asyncio.sleep(0.2)
        return await stop(*arguments)

    here.authority.recorder.record_taking_away = slowly  # type: ignore[method-assign]
    here.authority.launcher.stop = later  # type: ignore[method-assign]
    both = (jobs.cancel(None, job_id, JobState.QUEUED), jobs.cancel(PEER, job_id))
    await asyncio.gather(*both, return_exceptions=True)
    await here.reaches(job_id, JobState.CANCELLED)


@moment
async def test_a_run_cancelled_as_its_start_cannot_be_entered_is_cancelled(here: World) -> None:
    enter = here.authority.recorder.record

    async def record(actor: Any, action: str, *rest: Any, **more: Any) -> int:
        if action == "job.train":
            here.authority.recorder.record = enter  # type: ignore[method-assign]
            await here.authority.queue.cancel(PEER, rest[0])
            raise LedgerUnavailable("full")
        return await enter(actor, action, *rest, **more)

    here.authority.recorder.record = record  # type: ignore[method-assign]
    job_id = await here.run()
    await here.reaches(job_id, JobState.CANCELLED)
    assert "job.failed" not in here.actions()


@moment
async def test_a_run_whose_keys_cannot_be_written_just_now_stays_queued(
    here: World,
) -> None:
    new_key, full = here.authority.seal.vault.new_data_key, iter([OutOfSpace("the disk is full")])

    def refuse(*arguments: Any) -> bytes:
        for error in full:
            raise error
        return new_key(*arguments)

    here.authority.seal.vault.new_data_key = refuse  # type: ignore[method-assign]
    here.go.touch()
    job_id = await here.run()
    await here.reaches(job_id, JobState.DONE)
    assert next(full, None) is None and here.job(job_id).attempts == 1


@moment
async def test_a_launcher_that_ends_as_it_is_asked_to_tell_costs_an_attempt_and_no_job(here: World) -> None:
    send, gone = wire.send, iter([BrokenPipeError()])

    async def sent(sock: Any, line: bytes, *rest: Any) -> None:
        if b'"follow"' in line:
            for error in gone:
                raise error
        await send(sock, line, *rest)

    wire.send = sent  # type: ignore[assignment]
    try:
        here.go.touch()
        job_id = await here.run()
        await here.reaches(job_id, JobState.DONE)
    finally:
        wire.send = send  # type: ignore[assignment]
    assert next(gone, None) is None and "job.failed" not in here.actions()


@moment
async def test_a_failure_says_what_to_do_also_where_the_worker_does_not(here: World) -> None:
    (here.home.root / "program.py").write_text("raise SystemExit(1)")
    job_id = await here.run("falls")
    await here.reaches(job_id, JobState.FAILED)
    error = here.job(job_id).error
    assert error["detail"] and "`cloister run retry falls`" in error["remedy"]


@moment
async def test_who_gave_what_is_refused_is_not_told_to_give_it_again(here: World) -> None:
    said = json.dumps({"event": "failure", "code": "invalid-input", "message": "the file has no rows"})
    (here.home.root / "program.py").write_text(f"print({said!r}); raise SystemExit(2)")
    asked = await here.authority.looking.report(PEER, "rows", ReportRequest(config=ReportConfig()))
    await here.reaches(asked.job_id, JobState.FAILED)
    error = here.job(asked.job_id).error
    assert error["code"] == "invalid-input" and error["remedy"].startswith("Mend what it names")


@moment
async def test_an_authority_starts_also_while_the_state_takes_nothing(here: World) -> None:
    """What was cut off, served, or being stopped meanwhile, is seen to as soon as it does."""
    here.stored(ObjectKind.MODEL, "merged")
    served, stopping = [
        await here.authority.serve(PEER, ServeRequest(name=name, model="merged")) for name in ("one", "two")
    ]
    job_id = await here.run()
    for started in (served.deployment_id, stopping.deployment_id, job_id):
        await here.runs(started)
    with here.authority.state.change() as change:
        mark(change, stopping.deployment_id, DeploymentState.STOPPING)
    await here.authority.stop()
    await here.end_launcher()
    here.launcher, here.serving = start_launcher(here.home)
    here.authority = make(here.home)
    takes, full = here.authority.state.change, True

    @contextmanager
    def change_() -> Iterator[Change]:
        if full:
            raise OutOfSpace("the state could not be written")
        with takes() as change:
            yield change

    here.authority.state.change = change_  # type: ignore[method-assign]
    async with asyncio.timeout(60):
        await here.authority.start()
    assert here.job(job_id).state == JobState.RUNNING
    full = False
    await here.unlock()
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)
    await here.runs(served.deployment_id)
    await here.until(lambda: here.authority.serving.listed()[1].state == DeploymentState.STOPPED)
    assert here.actions().count("job.interrupted") == 1
