"""A run on two devices (places on the CPU) through the whole appliance: the losses of one; cut off, it goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.cli.cli_shell import Shell
from tests.conftest import Appliance, import_base, import_rows, short_run, start_appliance
from tests.pipeline.test_kills import worker_pids

from cloister import embedded
from cloister.api import FINAL_STATES, JobState
from cloister.client import Client

pytestmark = pytest.mark.slow

STEPS = 8
LONG = 40
"""Steps of what is cut off: many more than go by until that is done, however fast they are."""


@pytest.fixture(scope="module")
def two_places(tmp_path_factory: pytest.TempPathFactory, claims: list[dict[str, Any]]) -> Iterator[Appliance]:
    root = tmp_path_factory.mktemp("places") / "home"
    root.mkdir()
    (root / "appliance.yaml").write_text(json.dumps({"queue": {"heavy_slots": 2}}))
    appliance = start_appliance(root, gateway=False)
    import_rows(appliance.client, "claims", claims)
    import_base(appliance.client)
    yield appliance
    appliance.client.close()
    embedded.stop(appliance.home)


def losses(appliance: Appliance, run: str) -> list[float]:
    return [
        point.values["loss"] for point in appliance.client.run_curve(run).points if "loss" in point.values
    ]


def until(wanted: Callable[[], object]) -> None:
    patience = time.monotonic() + 120
    while not wanted():
        assert time.monotonic() < patience
        time.sleep(0.05)


def reaches(client: Client, job_id: str, step: int) -> None:
    """Wait until training has made so many steps."""

    def there() -> bool:
        job = client.job(job_id)
        assert job.state not in FINAL_STATES, job.error
        return job.progress is not None and job.progress.stage == "train" and job.progress.done >= step

    until(there)


def test_two_devices_train_to_the_losses_of_one_and_one_that_dies_costs_nothing(
    two_places: Appliance,
) -> None:
    client = two_places.client
    one = short_run("one", max_steps=STEPS, batch_size=8).model_copy(update={"evaluate": None})
    alone = client.finished_job(client.start_run(one).train_job.job_id)
    settings = {
        "epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "micro_batch_size": 16, "max_length": 320,
        "checkpoint_every": 2, "max_steps": STEPS, "lora": {"rank": 8, "alpha": 16},
    }  # fmt: skip
    file = two_places.home.root.parent / "run.yaml"
    file.write_text(json.dumps({"name": "two", "dataset": "claims", "base": "small", "train": settings}))
    shell = Shell(two_places.home.root)
    asked = shell.json("run", "start", "--devices", "2", "--evaluate", "none", "--watch", str(file))
    both = client.job(asked["train_job"]["job_id"])
    assert (alone.device, both.device) == ("cpu", "cpu,cpu")
    assert client.run("two").train.model_copy(update={"processes": 1}) == client.run("one").train
    assert both.result["steps"] == alone.result["steps"] == STEPS
    assert losses(two_places, "two") == pytest.approx(losses(two_places, "one"), rel=1e-3)
    assert both.result["holdout_loss"] == pytest.approx(alone.result["holdout_loss"], rel=1e-3)
    peaks = both.result["peak_bytes_by_process"]
    assert len(peaks) == both.result["processes"] == 2 and both.result["peak_bytes"] == max(peaks)

    whole, cut = (
        short_run(name, max_steps=LONG, batch_size=8, processes=2).model_copy(update={"evaluate": None})
        for name in ("whole", "cut")
    )
    uninterrupted = client.finished_job(client.start_run(whole).train_job.job_id).result
    job_id = client.start_run(cut).train_job.job_id
    reaches(client, job_id, 1)
    client.pause_run("cut")
    until(lambda: client.job(job_id).state == JobState.PAUSED)
    paused = client.job(job_id).progress
    assert paused is not None
    client.resume_run("cut")
    reaches(client, job_id, paused.done + 1)
    os.kill(worker_pids(two_places)[-1], 9)  # the second of the two
    until(lambda: client.job(job_id).state in FINAL_STATES)
    ended = client.job(job_id)
    assert ended.state == JobState.DONE and ended.attempts >= 2, ended.error
    for name in ("steps", "train_loss", "holdout_loss", "best_step"):
        assert ended.result[name] == uninterrupted[name], name
