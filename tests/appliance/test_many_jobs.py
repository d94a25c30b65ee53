"""Many jobs, and workers and authority killed at random: each ends once, with its entries, and in its order."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from authority_world import PEER, World, moment
from test_going_on import processes

from cloister.api import FINAL_STATES, JobState, RunRequest
from cloister.errors import CloisterError


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def many(here: World, jobs: int, kills: int, restarts: int) -> dict[str, Any]:
    generator = random.Random(jobs)
    await here.restart(queue={"heavy_slots": 2, "resume_limit": 1000})
    await here.unlock()
    (here.home.root / "lines").write_text("3")
    here.authority.queue.paused = True  # all of them wait before the first starts
    asked: dict[str, int] = {}
    for number in range(jobs):
        priority = generator.choice([-1, 0, 0, 0, 1])
        run = await here.authority.requests.start_run(
            PEER,
            RunRequest(name=f"r{number}", dataset="rows", base="base", evaluate=None, priority=priority),
        )
        asked[run.train_job.job_id] = priority
    here.go.touch()
    here.authority.queue.paused = False
    before = resident(os.getpid())
    killed = restarted = 0
    while not all(JobState(here.job(job_id).state) in FINAL_STATES for job_id in asked):
        await asyncio.sleep(generator.uniform(0.01, 0.1))
        if killed < kills and (found := processes(here)):
            with suppress(ProcessLookupError):
                os.kill(generator.choice(found), signal.SIGKILL)
            killed += 1
        elif restarted < restarts and generator.random() < 0.05:
            # As a kill leaves it: nothing is let go of in order.
            await here.restart(queue={"heavy_slots": 2, "resume_limit": 1000})
            await here.unlock()
            restarted += 1
        if generator.random() < 0.02:
            job_id = generator.choice(list(asked))
            with suppress(CloisterError):
                await here.authority.queue.cancel(PEER, job_id)
    await here.until(lambda: not here.authority.queue.known)
    return {
        "asked": asked,
        "killed": killed,
        "restarted": restarted,
        "grown": resident(os.getpid()) - before,
    }


def check(here: World, asked: dict[str, int]) -> Counter[str]:
    states: Counter[str] = Counter()
    entries = list(here.authority.ledger.entries(0, 100_000))
    by_job: dict[str, Counter[str]] = {job_id: Counter() for job_id in asked}
    for entry in entries:
        for job_id in by_job.keys() & set(entry["objects"]):
            by_job[job_id][entry["action"]] += 1
    finals = Counter(
        event.subject
        for event in here.authority.state.events_after(0, 1_000_000)
        if event.kind == "job.state" and event.data["state"] in FINAL_STATES
    )
    for job_id in asked:
        row = here.job(job_id)
        states[row.state] += 1
        assert finals[job_id] == 1, (job_id, finals[job_id])
        said = by_job[job_id]
        if row.state == JobState.DONE:
            # An entry is there before what it tells of: cut off between them, it is entered again.
            assert said["job.done"] >= 1 and said["job.train"] >= row.attempts
            assert said["job.interrupted"] >= row.attempts - 1
        elif row.state == JobState.CANCELLED:
            assert said["job.cancel"] == 1 and not said["job.done"]
        else:
            assert (
                row.state in (JobState.FAILED, JobState.INTERRUPTED)
                and said["job.failed"] + said["job.interrupted"]
            )
    return states


def in_order(here: World, asked: dict[str, int]) -> None:
    """First starts obey the rule: a job of one person starts after all that are before it in the queue."""
    firsts = [
        entry["objects"][0]
        for entry in here.authority.ledger.entries(0, 100_000)
        if entry["action"] == "job.train"
    ]
    started = list(dict.fromkeys(job_id for job_id in firsts if job_id in asked))
    rank = {job_id: (-asked[job_id], number) for number, job_id in enumerate(asked)}
    ordered = sorted(started, key=rank.__getitem__)
    # Two places: a start's entry may come one before its turn, and no more.
    for place, job_id in enumerate(started):
        assert abs(ordered.index(job_id) - place) <= 2, (place, ordered.index(job_id))


@moment
async def test_thirty_jobs_with_kills_end_once_each(here: World) -> None:
    told = await many(here, jobs=30, kills=8, restarts=2)
    check(here, told["asked"])
    in_order(here, told["asked"])


@pytest.mark.soak
def test_five_hundred_jobs_with_kills_end_once_each() -> None:
    figures: dict[str, Any] = {}

    async def whole(here: World) -> None:
        told = await many(here, jobs=500, kills=120, restarts=20)
        states = check(here, told["asked"])
        in_order(here, told["asked"])
        figures.update(told, states=dict(states))

    moment(whole)()
    grown = figures["grown"] / 2**20
    print(
        f"soak: jobs=500 kills={figures['killed']} restarts={figures['restarted']} grown_mib={grown:.0f} "
        + " ".join(f"{state}={count}" for state, count in figures["states"].items())
    )
    assert grown < 100
