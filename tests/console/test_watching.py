"""What nobody tells: a clock that was set, an answer that does not come; and what is remembered of a long stream."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from console_world import console, until
from recorded import NOW, Recorded

from cloister.api import Event
from cloister.console.actions import PLACES
from cloister.console.history import JOBS, LINE, LINES, POINTS, History
from cloister.console.watching import Watch


class Clocks:
    """One that people read and set, and one that only goes on."""

    def __init__(self) -> None:
        self.read, self.passed = NOW, 0.0

    def clock(self) -> datetime:
        return self.read

    def go_on(self, seconds: float, *, jump: float = 0) -> None:
        self.passed += seconds
        self.read += timedelta(seconds=seconds + jump)


def test_only_a_clock_that_was_set_is_told_and_once() -> None:
    clocks = Clocks()
    watch = Watch(clocks.clock, lambda: clocks.passed)
    clocks.go_on(3600)  # asleep for an hour
    assert watch.jumped() is None
    clocks.go_on(1, jump=-7200)
    jumped = watch.jumped()
    assert jumped == (clocks.read + timedelta(hours=2), clocks.read)
    clocks.go_on(1)
    assert watch.jumped() is None


def test_silence_counts_from_the_first_question() -> None:
    clocks = Clocks()
    watch = Watch(clocks.clock, lambda: clocks.passed)
    clocks.go_on(60)
    assert watch.silent() is None
    watch.asked()
    clocks.go_on(2)
    watch.asked()
    assert watch.silent() is None
    clocks.go_on(2)
    assert watch.silent() == 4
    watch.answered()
    assert watch.silent() is None


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_is_said_and_every_screen_goes_on(years: int) -> None:
    """Ages, expiries and traffic are told by the clock as it is; nothing falls over."""
    client = Recorded()
    jumped = [timedelta()]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW + jumped[0]) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("6")
            await until(app, lambda text: "ends soon" in text)
            jumped[0] = timedelta(days=365 * years)
            await until(app, lambda text: "The clock was set from 2026-03-04" in text)
            await until(app, lambda text: ("works" if years < 0 else "expired") in text)
            for number in range(len(PLACES)):
                await pilot.press(str(number + 1), "enter", "escape")
                await pilot.pause()
            jumped[0] = timedelta()
            await until(app, lambda text: "to 2026-03-04" in text)

    asyncio.run(walk())
    client.close()


def test_what_is_remembered_of_an_hours_stream_is_bounded() -> None:
    """Of 500 jobs that say 60,000 things, some of them long."""
    generator = random.Random(1)
    history = History()
    for seq in range(60_000):
        job = f"jb-{generator.randrange(500):012}"
        data: dict[str, Any] = {"step": seq, "values": {"loss": 1.0, "holdout_loss": 2.0}}
        kind = generator.choice(["job.metrics", "job.notice", "job.state"])
        if kind != "job.metrics":
            data = {
                "message": "x" * generator.choice([10, 100_000 if seq < 300 else 1_000]),
                "state": "running",
            }
        history.take(Event(seq=seq, time=NOW, kind=kind, subject=job, data=data))
    assert len(history._series) <= JOBS and len(history._lines) <= JOBS
    assert all(len(points) <= POINTS for series in history._series.values() for points in series.values())
    assert all(len(lines) <= LINES for lines in history._lines.values())
    assert max(len(line) for lines in history._lines.values() for _, line in lines) <= LINE


def test_a_curve_that_is_read_keeps_what_was_heard_since() -> None:
    history = History()
    for step in (5, 6, 7):
        history.take(
            Event(
                seq=step,
                time=NOW,
                kind="job.metrics",
                subject="jb-1",
                data={"step": step, "values": {"loss": step}},
            )
        )
    history.fill("jb-1", [(step, {"loss": -1.0}) for step in range(1, 7)])
    assert history.series("jb-1", "loss") == [(step, -1.0) for step in range(1, 7)] + [(7, 7.0)]
