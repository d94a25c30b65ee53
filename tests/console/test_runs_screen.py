"""The Runs screen: two runs side by side, the numbers of the moment, the learning rate where there is little room."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from console_world import NARROW, WIDE, console, until
from recorded import LIVE, MEASURED, NOW, Recorded, job, run
from textual.containers import VerticalScroll

from cloister.api import Problem, TrainConfig


def test_two_runs_are_compared_by_what_differs_and_what_was_measured() -> None:
    client = Recorded()
    first, _, third = client.answers["runs"]
    other = run("second", LIVE, evaluation=MEASURED | {"tuned": {"exact_match": 0.5}})
    other = other.model_copy(update={"train": TrainConfig(epochs=7)})
    client.answers["runs"] = [first, other, third]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("3")
            await until(app, lambda text: "second" in text)
            await pilot.press("equals_sign")
            await until(app, lambda text: "= second" in text and "is marked" in text)
            await pilot.press("end", "equals_sign")
            text = await until(app, lambda text: "Two runs" in text)
            assert "epochs" in text and "7" in text and "first is better" in text
            await pilot.press("escape")
            await until(app, lambda text: "Two runs" not in text and "= second" not in text)

    asyncio.run(walk())
    client.close()


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "120x40"])
def test_the_learning_rate_is_a_curve_at_every_size(size: tuple[int, int]) -> None:
    """Beside the others where there is room, else at the end of what is opened; and gone with its run."""
    client = Recorded()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, size, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("3")
            await until(app, lambda _: len(app.history.series(LIVE.job_id, "loss")) == 24)
            await pilot.press("enter")
            await until(app, lambda text: "loss (line)" in text)
            if size == NARROW:
                await pilot.press("end")
            text = await until(app, lambda text: "learning rate\n" in text or "learning rate " in text)
            assert "0.0002┤" in text
            await pilot.press("escape", "down", "enter", "end")
            await until(app, lambda text: "Configuration" in text and "0.0002┤" not in text)
            assert app.place is not None and app.place.query_one("#side", VerticalScroll)

    asyncio.run(walk())
    client.close()


def test_the_numbers_of_the_moment_are_called_by_their_names() -> None:
    client = Recorded()
    live = LIVE.model_copy(update={"metrics": LIVE.metrics | {"rss_mib": 812.0}})
    runs = client.answers["runs"]
    client.answers["runs"] = [runs[0], runs[1].model_copy(update={"train_job": live}), runs[2]]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, (120, 60), clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("3")
            text = await until(app, lambda text: "memory, MiB" in text)
            for wanted in ("812", "tokens/s", "2710", "hold-out loss", "33m00s left"):
                assert wanted in text, wanted

    asyncio.run(walk())
    client.close()


def test_a_run_that_went_wrong_stays_failed_when_what_is_kept_of_it_was_measured() -> None:
    what = "The loss grew from 2.0 to 9.0 by step 90. What is kept is the adapter of step 60."
    error = Problem(
        title="Diverged", status=422, code="diverged", detail=what, remedy="Lower the learning rate."
    )
    trained = job("w", "train", "failed", error=error, result={"steps": 90, "holdout_loss": 1.5})
    wild = run("wild", trained, evaluation=MEASURED, adapter="ad-wwwwwwwwwwww").model_copy(
        update={"evaluate_job": job("v", "evaluate", "done")}
    )
    client = Recorded()
    client.answers["runs"] = [wild]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("3")
            text = await until(app, lambda text: "× failed" in text)
            line = next(one for one in text.splitlines() if "wild" in one and "×" in one).split("│")[0]
            assert "× failed" in line and "done" not in line
            await pilot.press("enter")
            told = await until(app, lambda text: "Of a run that went wrong" in text)
            said = " ".join(told.replace("│", " ").split())
            assert "adapter of step 60" in said and "try: Lower the learning rate." in said
            await pilot.press("escape", "4")
            tree = await until(app, lambda text: "└─" in text and "wild" in text)
            assert any("wild" in one and "× failed" in one for one in tree.splitlines())

    asyncio.run(walk())
    client.close()
