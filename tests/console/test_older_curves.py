"""Curves of runs that ended before the events that are still known: asked for once, where the cursor rests."""

from __future__ import annotations

import asyncio
from typing import Any

from console_world import WIDE, console, until
from recorded import CURVE, NOW, Recorded

from cloister.api import Curve
from cloister.console.history import POINTS, History
from cloister.errors import Denied


class Remembering(Recorded):
    """Counts what it is asked; a run may have no curve for this account."""

    def __init__(self, *, denied: bool = False) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []
        self.denied = denied

    def run_curve(self, reference: str, *, most: int) -> Curve:
        self.asked.append((reference, most))
        if self.denied:
            raise Denied("not for you")
        return CURVE


def walk_to_first(client: Remembering, wanted: str) -> str:
    """Let the cursor rest on the run that ended; what is seen then."""

    async def walk() -> str:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("3")
            await until(app, lambda text: "second" in text)
            await pilot.press("down", "down")
            seen = await until(app, lambda text: wanted in text)
            for _ in range(3):
                app.show()
                await asyncio.sleep(0.15)
            await pilot.press("up", "down")
            await asyncio.sleep(0.4)
        return seen

    seen = asyncio.run(walk())
    client.close()
    return seen


def test_a_run_that_ended_long_ago_has_its_curve() -> None:
    client = Remembering()
    assert "430" in walk_to_first(client, "loss (line)")
    assert client.asked == [("rn-ffffffffffff", POINTS)]


def test_no_curve_is_a_line_and_asked_for_once() -> None:
    client = Remembering(denied=True)
    walk_to_first(client, "No curve of first: not for you")
    assert len(client.asked) == 1


def test_a_whole_curve_takes_the_place_of_what_was_heard() -> None:
    history = History()
    history.fill("jb", [(1, {"loss": 1.0}), (2, {"loss": 0.5})])
    history.fill("jb", [(step, {"loss": 2.0}) for step in range(1, 4)])
    assert history.series("jb", "loss") == [(1, 2.0), (2, 2.0), (3, 2.0)]
