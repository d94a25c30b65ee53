"""The queue of a real authority, put into another order from the console."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from busy_home import BusyHome
from console_world import WIDE, console, until

from cloister.console.asking_jobs import HIGHEST


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyHome]:
    """One run trains, and two wait for it."""
    here = BusyHome(tmp_path_factory.mktemp("queue"))
    try:
        here.furnish()
        here.start_run()
        here.ask_run("first")
        here.ask_run("second")
        yield here
    finally:
        here.close()


def waiting(busy: BusyHome) -> dict[str, tuple[int, int | None]]:
    """Priority and place of each."""
    jobs = {run.name: run.train_job for run in busy.client.runs() if run.name != "live"}
    return {name: (job.priority, job.position) for name, job in jobs.items()}


def walked(busy: BusyHome, *steps: tuple[tuple[str, ...], str]) -> None:
    """Keys, each time with what the console says to them."""

    async def walk() -> None:
        async with console(Path(busy.home.authority_socket), WIDE) as (app, pilot):
            await until(app, lambda text: "→ train" in text)
            for keys, said in steps:
                await pilot.press(*keys)
                await until(app, lambda text, said=said: said in text)  # type: ignore[misc]

    asyncio.run(walk())


def test_a_run_is_put_before_others_and_behind_them(busy: BusyHome) -> None:
    assert waiting(busy) == {"first": (0, 1), "second": (0, 2)}
    walked(
        busy,
        (("3",), "second"),
        (("slash", *"second", "enter", "plus"), "Read-only: press w"),
        (("w",), "ARMED"),
        (("plus",), "second has priority +1: number 1 in the queue"),
        (("enter",), "priority  +1"),
    )
    assert waiting(busy) == {"first": (0, 2), "second": (1, 1)}
    walked(
        busy,
        (("3", "w"), "ARMED"),
        (("slash", *"second", "enter", "minus"), "second has priority 0: number 2 in the queue"),
        (("minus",), "second has priority -1: number 2 in the queue"),
    )
    assert waiting(busy) == {"first": (0, 1), "second": (-1, 2)}


def test_there_is_a_highest_priority(busy: BusyHome) -> None:
    job = next(run.train_job for run in busy.client.runs() if run.name == "first")
    busy.client.raise_job(job.job_id, HIGHEST - 1)
    walked(
        busy,
        (("3", "w"), "ARMED"),
        (("slash", *"first", "enter"), "first"),
        (("plus",), f"first has priority +{HIGHEST}: number 1 in the queue"),
        (("plus",), f"its priority is +{HIGHEST}, and there is none beyond"),
    )
    busy.client.lower_job(job.job_id, 0)


def test_a_priority_that_does_not_count_yet_says_so(busy: BusyHome) -> None:
    live, first = (
        next(run.train_job for run in busy.client.runs() if run.name == name) for name in ("live", "first")
    )
    busy.client.cancel_job(first.job_id)
    walked(
        busy,
        (("3", "w"), "ARMED"),
        (
            ("slash", *"live", "enter", "plus"),
            "live has priority +1: it runs, so that counts once it has made way",
        ),
        (("escape", "slash", *"first", "enter"), "first"),
        (("plus",), "first has priority +1: it is cancelled, so that counts once it is queued again"),
    )
    busy.client.resume_job(first.job_id)
    assert waiting(busy)["first"] == (1, 1)
    busy.client.lower_job(first.job_id, 0)
    busy.client.lower_job(live.job_id, 0)
