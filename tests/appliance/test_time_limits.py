"""What never answers comes to an end that says so: a stop, the start of an engine, a watched authority."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from authority_world import (  # type: ignore[import-not-found]
    PEER,
    World,
    moment,
    program,
    start_launcher,
    world,
)
from tests.conftest import start_appliance

from cloister import embedded
from cloister.api import (
    DatasetImport,
    DeploymentState,
    ImportConfig,
    JobState,
    JobTicket,
    LockRequest,
    ObjectKind,
    ServeRequest,
)
from cloister.appliance import serving
from cloister.appliance.state import DeploymentRow
from cloister.errors import Unavailable
from cloister.home import Home

HASTY = {"queue": {"stop_grace_s": 1}}
SOON = {"serving": {"start_limit_s": 1}}


@contextmanager
def launcher_process(home: Home) -> Iterator[None]:
    """A launcher that can be held up: a process of its own."""
    command = [sys.executable, "-m", "cloister.launcher", "--home", str(home.root), "--sandbox", "none"]
    process = subprocess.Popen([*command, "--program", *program(home)])
    try:
        yield
    finally:
        hold_up(home, signal.SIGCONT)
        process.terminate()
        process.wait()


def hold_up(home: Home, number: int) -> None:
    pid = embedded.listener_pid(home.launcher_socket)
    assert pid is not None
    os.kill(pid, number)


@pytest.mark.parametrize("what", ["cancel", "lock", "stop"])
def test_a_stop_that_is_never_answered_ends_failed_with_a_remedy(what: str) -> None:
    async def inside() -> None:
        async with world() as here:
            here.stored(ObjectKind.MODEL, "model")
            await here.end_launcher()
            try:
                with launcher_process(here.home):
                    await here.until(lambda: embedded.listener_pid(here.home.launcher_socket))
                    await here.restart(**HASTY)
                    await here.unlock()
                    await ends_failed(here, what)
            finally:
                here.launcher, here.serving = start_launcher(here.home)

    asyncio.run(inside())


async def ends_failed(here: World, what: str) -> None:
    def held_up() -> None:
        """From now on the launcher has no time: until here this machine may be as slow as it likes."""
        here.authority.launcher._answer_s = 1
        hold_up(here.home, signal.SIGSTOP)

    if what == "stop":
        served = await here.authority.serve(PEER, ServeRequest(name="m", model="model"))
        await here.runs(served.deployment_id)
        held_up()
        stopped = await here.authority.serving.stop(PEER, served.deployment_id)
        assert stopped.state == DeploymentState.FAILED and stopped.error is not None
        assert "cloister down" in (stopped.error.remedy or "")
        return
    job_id = await here.run()
    await here.runs(job_id)
    held_up()
    if what == "cancel":
        await here.authority.queue.cancel(PEER, job_id)
    else:
        await here.authority.lock(PEER, LockRequest(mode="cut"))
    job = here.job(job_id)
    assert (job.state, job.error["code"]) == (JobState.FAILED, "unavailable")
    assert "cloister down" in job.error["remedy"]
    assert job_id not in here.authority.queue.known


@moment
async def test_an_engine_that_never_answers_is_given_up(here: World) -> None:
    here.stored(ObjectKind.MODEL, "model")
    await here.restart(**SOON)
    await here.unlock()
    served = await here.authority.serve(PEER, ServeRequest(name="m", model="model"))
    await here.until(lambda: here.authority.serving.listed()[0].state == DeploymentState.FAILED)
    error = here.authority.serving.listed()[0].error
    assert error is not None and "start_limit_s" in (error.remedy or "")
    await here.until(lambda: here.authority.serving.live == [])
    assert await here.running() == []
    assert here.actions()[-1] == "deployment.failed"
    await here.restart(**SOON)
    await here.unlock()
    assert here.authority.serving.live == [], "given up for good"
    again = await here.authority.serve(PEER, ServeRequest(name="m", model="model"))
    assert again.deployment_id != served.deployment_id


DYING = """
import json, sys
print(json.dumps({"event": "failure", "code": "job-failed", "message": "it lacks a library."}))
sys.exit(1)
"""


@moment
async def test_an_engine_that_ends_time_and_again_is_given_up_unless_it_has_answered_once(
    here: World,
) -> None:
    (here.home.root / "program.py").write_text(DYING)
    here.stored(ObjectKind.MODEL, "model")
    deployments = here.authority.serving.listed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "BACK_OFF_S", (0.01,))
        await here.authority.serve(PEER, ServeRequest(name="new", model="model"))
        await here.until(lambda: deployments()[0].state == DeploymentState.FAILED)
        error = deployments()[0].error
        assert error is not None and "cloister doctor" in (error.remedy or "")
        assert error.detail == "the engine has ended 3 times and never answered: it lacks a library"
        await here.until(lambda: "deployment.failed" in here.actions())
        assert here.actions().count("engine.start") == 3
        found = await here.authority._alarming.look()
        (alert,) = [one for one in found if one.key.startswith("engine:")]
        assert alert.command.startswith("cloister doctor; then cloister serve start ")
        served = await here.authority.serve(PEER, ServeRequest(name="old", model="model"))
        with here.authority.state.change() as change:
            change.session.get_one(DeploymentRow, served.deployment_id).ready_at = change.now
        await here.until(lambda: here.actions().count("engine.start") > 7)
        assert deployments()[1].state != DeploymentState.FAILED
        await here.authority.serving.stop(PEER, "old")


def test_watching_an_authority_that_never_comes_back_ends(tmp_path: Path) -> None:
    appliance = start_appliance(tmp_path / "home", gateway=False)
    try:
        request = DatasetImport(name="waiting", config=ImportConfig(source_name="x.jsonl"))
        ticket = appliance.client._post("/v1/datasets", request, JobTicket)  # waits for its source
        jobs = appliance.client.watch_job(ticket.job.job_id, patience_s=1.0)
        assert next(jobs).state == JobState.WAITING_SOURCE
        pid = embedded.listener_pid(appliance.home.authority_socket)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        embedded.await_end(pid)
        with pytest.raises(Unavailable, match="has not answered") as gone:
            list(jobs)
        assert "cloister up" in (gone.value.remedy or "")
    finally:
        appliance.client.close()
        embedded.stop(appliance.home)
