"""What was asked for is what runs: nothing that is edited while a run waits changes its configuration."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest
from authority_world import World, at_socket, moment
from tests.cli.cli_shell import CLOISTER

from cloister.api import JobState

pytestmark = pytest.mark.slow  # several commands, one after the other

PROGRAM = """
import json, sys, time
from pathlib import Path
job = json.load(sys.stdin)
folder = Path(__file__).parent
for given in job["inputs"].values():
    given["key"] = None
(folder / f"got-{job['job_id']}").write_text(json.dumps({"config": job["config"], "inputs": job["inputs"]}))
while not (folder / "go").exists():
    time.sleep(0.01)
"""


@moment
async def test_what_is_edited_after_the_start_changes_nothing_in_what_runs(here: World) -> None:
    (here.home.root / "program.py").write_text(PROGRAM)
    preset = here.home.root / "preset.yaml"
    preset.write_text("epochs: 3\nlearning_rate: 0.0005\nseed: 11\nlora: {rank: 4, alpha: 12}\n")

    async def cli(*words: str) -> Any:
        environment = {**os.environ, "CLOISTER_HOME": str(here.home.root)}
        done = await asyncio.to_thread(
            subprocess.run, [CLOISTER, *words, "--json"], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    start = (
        "run",
        "start",
        "--dataset",
        "rows",
        "--base",
        "base",
        "--config",
        str(preset),
        "--evaluate",
        "none",
    )
    async with at_socket(here):
        first = await cli(*start, "--name", "first")  # it holds the one place
        await here.runs(first["train_job"]["job_id"])
        second = await cli(*start, "--name", "second")
        job_id = second["train_job"]["job_id"]
        assert here.job(job_id).state == JobState.QUEUED

        preset.write_text("epochs: 9\nlearning_rate: 0.1\nseed: 99\nlora: {rank: 64, alpha: 1}\n")
        third = await cli(*start, "--name", "third")  # asked for now, it is as the file is now
    await here.restart(data={"classification": "public"}, queue={"threads": 1})  # the settings of now
    await here.unlock()
    async with at_socket(here):
        here.go.touch()
        got = here.home.root / f"got-{job_id}"
        await here.until(lambda: got.exists() and got.read_text())
        shown = await cli("run", "show", "second")
    ran = json.loads(got.read_text())
    assert ran["config"] == second["train"] == shown["train"]
    assert (ran["config"]["epochs"], ran["config"]["seed"], ran["config"]["lora"]["rank"]) == (3, 11, 4)
    assert {role: given["object_id"] for role, given in ran["inputs"].items()} == {
        "dataset": second["dataset"],
        "base": second["base"],
    }
    assert (third["train"]["epochs"], third["train"]["lora"]["rank"]) == (9, 64)
    (entry,) = [
        one
        for one in here.authority.ledger.entries(0, 10_000)
        if one["action"] == "run.start" and one["details"]["name"] == "second"
    ]
    assert entry["digests"]["config"] == here.authority.seal.config_digest(ran["config"])
