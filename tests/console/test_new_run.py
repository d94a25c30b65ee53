"""The form of a new run: presets fill it in, and the plan follows what is typed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from console_world import console, type_in, until
from recorded import NOW, PLAN, Recorded

from cloister.api import EvaluateConfig, PlanAdvice, PlanRequest, RunPlan, RunRequest
from cloister.console.asking_run import USUAL, expected, plan_of, run_of, settings_of
from cloister.errors import InvalidInput, NotFound
from cloister.recipes import PRESETS, parse_run_file, preset_text

NAMED = {"name": "one", "dataset": "claims", "base": "small", "priority": "0"}


class Planning(Recorded):
    """Says what it was asked; a longest row of 999 is refused, 77 does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[PlanRequest] = []
        self.slow = threading.Event()
        self.started: list[RunRequest] = []

    def plan(self, request: PlanRequest) -> RunPlan:
        self.asked.append(request)
        if request.train.max_length == 500:
            self.slow.wait(10)
            return PLAN.model_copy(update={"fits": False})
        if request.train.max_length == 999:
            raise NotFound("there is no\x1b[31m dataset")
        if request.train.max_length == 77:
            advice = PlanAdvice(
                change={"max_length": 512}, costs="longer rows refuse the run", memory=7 << 30, fits=True
            )
            return PLAN.model_copy(update={"fits": False, "advice": [advice]})
        return PLAN

    def start_run(self, request: RunRequest) -> Any:
        self.started.append(request)
        return self.answers["runs"][0]


@pytest.mark.parametrize("preset", [USUAL, *PRESETS])
def test_a_preset_untouched_is_the_preset(preset: str) -> None:
    made = run_of(NAMED | {"preset": preset} | settings_of(preset))
    if preset == USUAL:
        assert made == RunRequest(**{key: NAMED[key] for key in ("name", "dataset", "base")})
        return
    file = parse_run_file(preset_text(preset).encode(), preset)
    assert (made.train, made.evaluate) == (file.train_config(), file.evaluate)


def test_a_run_on_several_devices_is_asked_for_and_planned() -> None:
    values = NAMED | {"preset": USUAL} | settings_of(USUAL) | {"devices": "4"}
    assert run_of(values).train.processes == 4 and plan_of(values).train.processes == 4
    with pytest.raises(InvalidInput):
        run_of(values | {"devices": "0"})


def test_the_measuring_after_it_is_planned_as_it_will_be_done() -> None:
    values = NAMED | {"preset": "extraction"} | settings_of("extraction")
    assert plan_of(values).evaluate == run_of(values).evaluate != EvaluateConfig()
    told = expected(PLAN.model_copy(update={"measuring_seconds": 95.0, "measuring_measured": True})).plain
    assert "1m35s, measured; once trained" in told and "once trained" not in expected(PLAN).plain


def test_a_plan_needs_no_name_and_takes_no_nonsense() -> None:
    values = NAMED | {"preset": USUAL, "name": ""} | settings_of(USUAL)
    assert plan_of(values).dataset == "claims"
    with pytest.raises(ValueError, match="invalid literal"):
        plan_of(values | {"batch": "many"})
    with pytest.raises(InvalidInput):
        plan_of(values | {"batch": "0"})


def test_the_plan_follows_what_is_typed_and_a_refusal_is_a_line() -> None:
    client = Planning()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("3", "w")
            await until(app, lambda text: "second" in text)
            await pilot.press("n")
            told = await until(app, lambda text: "● fits" in text and "46m40s" in text)
            assert "9.0 GiB of 80.0 GiB" in told and "34m00s (25m00s to 46m40s), estimated" in told
            assert len(client.asked) == 1
            await type_in(pilot, "mine")
            await pilot.pause(0.4)
            assert len(client.asked) == 1, "a name changes no plan"
            await pilot.press("tab", "enter", "down", "down", "down", "enter")
            await until(app, lambda text: "as JSON" in text and "4096" in text)
            await asyncio.sleep(0.5)
            assert [one.train.max_length for one in client.asked] == [1024, 4096]
            assert client.asked[-1].train.loss_on == "last"
            for length, wanted in (("999", "× no plan: there is no\\x1b[31m"), ("77", "does not fit")):
                app.screen.query_one("#field-length").focus()
                await pilot.press(*["backspace"] * 4)
                await type_in(pilot, length)
                await until(app, lambda text, wanted=wanted: wanted in text)
            await until(app, lambda text: "× does not fit" in text and "34m00s" in text)
            assert "max_length 512: 7.0 GiB, fits" in app.screen.query_one("#plan Static").render().plain  # type: ignore[union-attr]
            await pilot.press("backspace", "backspace", "x")
            await until(app, lambda text: "× no plan: not a number" in text)
            await pilot.press("backspace", *"4096")
            app.screen.query_one("#field-devices").focus()
            await pilot.press("end", "backspace", "2")
            await until(app, lambda _: client.asked[-1].train.processes == 2)
            await pilot.press("enter", "enter", "enter")
            await until(app, lambda text: "is queued" in text)

    asyncio.run(walk())
    client.close()
    (started,) = client.started
    assert (started.name, started.train.loss_on, started.train.epochs) == ("mine", "last", 4)
    assert started.train.processes == 2


def test_an_answer_that_comes_late_is_not_shown() -> None:
    client = Planning()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("3", "w")
            await until(app, lambda text: "second" in text)
            await pilot.press("n")
            await until(app, lambda text: "● fits" in text)
            for length in ("500", "600"):
                app.screen.query_one("#field-length").focus()
                await pilot.press(*["backspace"] * 4)
                await type_in(pilot, length)
                wanted = int(length)
                await until(app, lambda _, wanted=wanted: client.asked[-1].train.max_length == wanted)
            client.slow.set()
            await asyncio.sleep(0.3)
            await until(app, lambda text: "● fits" in text)

    asyncio.run(walk())
    client.close()


def test_what_does_not_fit_and_cannot_is_said() -> None:
    assert "smaller base model" in expected(PLAN.model_copy(update={"fits": False})).plain
    assert "1.70 EUR, 0.41 kWh" in expected(PLAN).plain
