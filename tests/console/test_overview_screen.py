"""The Overview: devices with who holds them, memory and load; the queue by name; any job cancelled and gone on with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from console_world import MACHINE, console, until
from recorded import LIVE, NOW, Recorded, job

from cloister.api import GpuStatus, Job
from cloister.console import machine
from cloister.console.first_steps import greeting
from cloister.console.picture import Picture
from cloister.console.pipeline import devices, queue, waiting

GPUS = [
    GpuStatus(
        number=0,
        index=0,
        name="H100",
        memory_used=61 << 30,
        memory_total=80 << 30,
        utilisation_percent=93,
        holders=[LIVE.job_id],
    ),
    GpuStatus(
        number=1,
        index=1,
        memory_used=20 << 30,
        memory_total=80 << 30,
        utilisation_percent=4,
        holders=["dp-cccccccccccc"],
    ),
    GpuStatus(number=2, index=2, memory_used=0, memory_total=80 << 30, utilisation_percent=0),
    GpuStatus(number=3, index=3, problem="lost"),
]


def with_gpus() -> Recorded:
    client = Recorded(gpus=GPUS)
    on_gpu = LIVE.model_copy(update={"device": "cuda:0"})
    runs = client.answers["runs"]
    client.answers["jobs"] = [on_gpu, *client.answers["jobs"][1:]]
    client.answers["runs"] = [runs[0], runs[1].model_copy(update={"train_job": on_gpu}), runs[2]]
    served = client.answers["deployments"][0].model_copy(update={"device": "cuda:1"})
    client.answers["deployments"] = [served, *client.answers["deployments"][1:]]
    return client


def test_who_holds_a_gpu_its_memory_and_its_load_fit_into_eighty_columns() -> None:
    client: Any = with_gpus()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, _):
            text = await until(app, lambda text: "GPU 3" in text)
            lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
            assert "● held" in lines["GPU 0"] and "train second" in lines["GPU 0"]
            assert "61.0 of 80.0 GiB" in lines["GPU 0"] and "93% busy" in lines["GPU 0"]
            assert "serves claims" in lines["GPU 1"] and "4% busy" in lines["GPU 1"]
            assert "● free" in lines["GPU 2"] and "0.0 of 80.0 GiB" in lines["GPU 2"]
            assert "× lost" in lines["GPU 3"]
            assert "● free" in lines["CPU"] and "3.0 of 8.0 GiB" in lines["CPU"]
            assert "load 1.5/4" in lines["CPU"]

    asyncio.run(walk())
    client.close()


def test_a_machine_without_a_gpu_tells_of_its_own_memory_and_load() -> None:
    client: Any = Recorded()
    picture = Picture().with_read(
        {name: client.answers[name] for name in ("status", "jobs", "deployments")}, {}
    )
    (line,) = devices(picture, MACHINE)
    told = line.cells[2].plain
    assert told.endswith("3.0 of 8.0 GiB  load 1.5/4  train jb-bbbbbbbbbbbb, claims")
    (line,) = devices(picture, None)
    assert "GiB" not in line.cells[2].plain


def test_the_machine_is_read_as_the_kernel_tells_it(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal:  8000 kB\nMemFree: 10 kB\nMemAvailable: 2000 kB\nHugePages: 0\n"
    )
    (tmp_path / "loadavg").write_text("2.50 1.00 0.50 3/400 1234\n")
    found = machine.look(tmp_path)
    assert found is not None
    assert (found.memory_used, found.memory_total, found.load) == (6000 << 10, 8000 << 10, 2.5)
    (tmp_path / "meminfo").write_text("nothing of the sort")
    assert machine.look(tmp_path) is None
    assert machine.look(tmp_path / "none") is None
    assert machine.look() is not None, "this machine tells"


def test_the_queue_says_what_each_job_is_of() -> None:
    client: Any = Recorded()
    client.answers["jobs"] = [
        *client.answers["jobs"],
        job("i", "import", "running", subject="ds-cccccccccccc"),
        job("z", "merge", "interrupted"),
        job("y", "merge", "done"),
    ]
    shelves = ("jobs", "runs", "datasets")
    picture = Picture().with_read({name: client.answers[name] for name in shelves}, {})
    told = [(line.cells[0].plain.strip(), line.cells[2].plain.split(" · ")[0]) for line in queue(picture)]
    assert told == [
        ("train second", "train 120/400"),
        ("train third", "number 1 to start"),
        ("import claims", ""),
        ("merge", ""),
    ]


def test_what_waits_for_an_approval_is_in_sight_and_leads_there() -> None:
    client = Recorded()

    async def steps() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            line = "approval      ○ 1 pending   deployment.start claims of omar"
            await until(app, lambda text: line in text)
            await pilot.press("down", "enter")
            await until(app, lambda text: "What was asked for" in text and app.place.scope == "models")

    asyncio.run(steps())
    client.close()


def test_nothing_of_approvals_is_said_where_none_waits() -> None:
    client = Recorded()
    decided = client.answers["approvals"][0].model_copy(update={"state": "approved"})
    assert waiting(Picture(approvals=(decided,))) == []


def test_an_approver_of_an_empty_appliance_is_led_to_what_waits() -> None:
    client: Any = Recorded()
    shelves = dict.fromkeys(("bases", "datasets", "runs"), ())
    picture = Picture(status=client.answers["status"]).with_read(shelves, {})
    told = greeting(picture, armed=False)
    assert told is not None and "approval" not in told.plain
    told = greeting(picture.with_read({"approvals": tuple(client.answers["approvals"])}, {}), armed=False)
    assert told is not None and "○ 4  something waits for somebody's approval" in told.plain


class Moving(Recorded):
    """Keeps what was cancelled and gone on with."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[tuple[str, str]] = []
        self.answers["jobs"] = [
            job("i", "import", "running", subject="ds-cccccccccccc"),
            job("m", "merge", "interrupted"),
        ]

    def cancel_job(self, job_id: str) -> Job:
        self.did.append(("cancel", job_id))
        return self.answers["jobs"][0]  # type: ignore[no-any-return]

    def resume_job(self, job_id: str) -> Job:
        self.did.append(("resume", job_id))
        return self.answers["jobs"][1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("place", ["1", "2", "4"])
def test_a_job_is_cancelled_wherever_it_stands(place: str) -> None:
    client: Any = Moving()
    client.answers["jobs"][0] = job("i", "import" if place != "4" else "merge", "running")
    verb = client.answers["jobs"][0].verb

    async def walk() -> None:
        async with console(lambda: client, (120, 40), clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press(place, "w")
            await until(app, lambda text: "ARMED" in text and "Reading" not in text)
            await pilot.press("slash", *"jb-iiii", "enter")
            await until(app, lambda _: app.place.chosen_id() == "jb-iiiiiiiiiiii")
            await pilot.press("X")
            await until(app, lambda text: "Cancel a job" in text)
            await pilot.press(*verb, "enter")
            await until(app, lambda _: client.did == [("cancel", "jb-iiiiiiiiiiii")])

    asyncio.run(walk())
    client.close()


def test_what_was_cut_off_is_picked_up_again_where_it_stands() -> None:
    client: Any = Moving()

    async def walk() -> None:
        async with console(lambda: client, (120, 40), clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "interrupted" in text)
            await pilot.press("w", "slash", *"jb-iiii", "enter", "R")
            await until(app, lambda text: "It is running: there is nothing to go on with" in text)
            await pilot.press("escape", "slash", *"jb-mmmm", "enter", "R")
            await until(app, lambda text: "is queued again" in text)

    asyncio.run(walk())
    client.close()
    assert client.did == [("resume", "jb-mmmmmmmmmmmm")]


def test_locking_that_cuts_work_off_shows_it_and_takes_the_appliances_name() -> None:
    client: Any = Recorded()
    locked: list[str] = []
    client.lock = lambda request: locked.append(request.mode)

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("w", "l")
            await until(app, lambda text: "Lock the vault" in text)
            await pilot.press("pageup", "enter", "down", "down", "enter", "tab", "enter")
            asked = await until(app, lambda text: "Lock, and cut off what runs" in text)
            assert "train second" in asked and "claims (dp-cccccccccccc)" in asked and not locked
            await pilot.press(*"prod", "enter")
            await until(app, lambda text: "that is not its name" in text)
            assert not locked
            await pilot.press(*["backspace"] * 4)
            await pilot.press(*["minus" if one == "-" else one for one in "prod-frankfurt"], "enter")
            await until(app, lambda _: locked == ["cut"])

    asyncio.run(walk())
    client.close()
