"""`cloister job`: what no run's name stands for, a merge say, is seen, stopped and taken up again by its id."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

from authority_world import PEER, World, at_socket, moment
from tests.cli.cli_shell import CLOISTER

from cloister.api import JobState


@moment
async def test_a_merge_is_cut_off_and_taken_up_again_by_the_command_that_it_names(here: World) -> None:
    async def cli(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CLOISTER_HOME": str(here.home.root)}
        done = await asyncio.to_thread(
            subprocess.run, [CLOISTER, *words], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done

    async def listed() -> Any:
        return [
            (job["job_id"], job["state"]) for job in json.loads((await cli("job", "list", "--json")).stdout)
        ]

    with here.authority.state.change() as change:
        job_id = here.authority.queue.add(change, PEER.account, "merge", "merged", {}, {}).job_id
    await here.runs(job_id)
    async with at_socket(here):
        assert await listed() == [(job_id, "running")]
        await here.authority.queue.cancel(PEER, job_id, JobState.INTERRUPTED)
        await here.reaches(job_id, JobState.INTERRUPTED)
        remedy = here.job(job_id).error["remedy"]
        assert remedy == f"Run `cloister job resume {job_id}`."
        assert remedy in (await cli("job", "list")).stdout
        await cli(*remedy.split("`")[1].split()[1:])
        await here.runs(job_id)
        await cli("job", "pause", job_id)
        await here.reaches(job_id, JobState.PAUSED)
        await cli("job", "priority", job_id, "-5")
        assert "priority -5" in (await cli("job", "list")).stdout
        for _ in range(2):  # the second time there is nothing to do
            await cli("job", "priority", job_id, "3")
        assert here.actions().count("job.raise") == here.actions().count("job.lower") == 1
        assert here.job(job_id).priority == 3
        await cli("job", "retry", job_id)
        await here.runs(job_id)
        await cli("job", "cancel", job_id)
        await here.reaches(job_id, JobState.CANCELLED)
        assert await listed() == []
