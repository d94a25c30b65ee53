"""What was cut off by nobody's wish goes on by itself, a few times; what somebody stopped stays stopped."""

from __future__ import annotations

import os
import signal

from authority_world import World, moment

from cloister.api import JobState


def processes(here: World) -> list[int]:
    """The processes in place of workers."""
    script = str(here.home.root / "program.py")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().decode().split("\0")
        except OSError:
            continue
        if script in words:
            found.append(int(name))
    return found


async def kill(here: World, job_id: str, attempt: int) -> None:
    await here.until(lambda: here.job(job_id).attempts == attempt and processes(here))
    await here.runs(job_id)
    for pid in processes(here):
        os.kill(pid, signal.SIGKILL)


@moment
async def test_a_run_whose_worker_was_killed_goes_on(here: World) -> None:
    job_id = await here.run()
    await kill(here, job_id, 1)
    await here.until(lambda: here.job(job_id).attempts == 2)
    assert here.job(job_id).resume
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)
    assert here.actions().count("job.interrupted") == 1
    assert here.actions().count("job.train") == 2


@moment
async def test_it_goes_on_three_times_and_then_says_so(here: World) -> None:
    job_id = await here.run()
    for attempt in (1, 2, 3, 4):
        await kill(here, job_id, attempt)
    await here.reaches(job_id, JobState.INTERRUPTED)
    row = here.job(job_id)
    assert row.attempts == 4
    assert "4 times" in row.error["detail"] and "run resume" in row.error["remedy"]
    here.go.touch()
    await here.authority.queue.resume(here.peer, job_id)
    await here.reaches(job_id, JobState.DONE)


@moment
async def test_pauses_do_not_count_as_times_that_it_was_cut_off(here: World) -> None:
    job_id = await here.run()
    for _ in range(4):
        await here.runs(job_id)
        await here.authority.queue.pause(here.peer, job_id)
        await here.reaches(job_id, JobState.PAUSED)
        await here.authority.queue.resume(here.peer, job_id)
    await kill(here, job_id, 1)
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)


@moment
async def test_after_a_restart_of_everything_and_an_unlock_it_goes_on(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    await here.restart(launcher=True)
    await here.reaches(job_id, JobState.QUEUED)
    here.go.touch()
    await here.unlock()
    await here.reaches(job_id, JobState.DONE)
    assert here.job(job_id).attempts == 2


@moment
async def test_a_cancelled_run_stays_cancelled(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    await here.authority.queue.cancel(here.peer, job_id)
    await here.reaches(job_id, JobState.CANCELLED)
    await here.restart()
    await here.unlock()
    await here.until(lambda: not here.authority.queue.known)
    assert here.job(job_id).attempts == 1
