"""A screen that comes is painted once, when it stands: not half of it before, and not again behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from console_world import NARROW, WIDE, console, shown, still, until
from recorded import NOW, Recorded
from rich.text import Text
from textual.pilot import Pilot

from cloister.console.actions import PLACES
from cloister.console.app import ConsoleApp

LONG_S = 60.0


@pytest.fixture(autouse=True)
def waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen that comes is waited for as long as it takes: where the machine is slow, half of it would be painted."""
    monkeypatch.setattr(ConsoleApp, "delay_update", for_long(ConsoleApp.delay_update))


class Paints(list[str]):
    """The screen as it was at each paint, from `begin` on, and the screens behind that were painted."""

    def __init__(self) -> None:
        super().__init__()
        self.behind: list[str] = []

    def whole_and_once(self, app: ConsoleApp, most: int) -> None:
        """What came was all there from its first paint on; of the `most` paints all but that one are of its scroll bar.
        How many those are depends on how fast the machine is."""
        assert set(self) == {shown(app)} and not self.behind
        assert len(self) <= most

    def begin(self, app: ConsoleApp) -> None:
        display: Any = app._display

        def noted(screen: Any, update: Any) -> None:
            display(screen, update)
            if update is not None and not app._batch_count:
                self.append(shown(app))
                if screen is not app.screen:
                    self.behind.append(type(screen).__name__)

        app._display = noted  # type: ignore[method-assign]


def walked(
    walk: Callable[[ConsoleApp, Pilot[None], Paints], Awaitable[None]], size: tuple[int, int] = NARROW
) -> Paints:
    paints, client = Paints(), Recorded()

    async def whole() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, size=size, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            for number in range(len(PLACES), 0, -1):
                await pilot.press(str(number))
                await still(app, pilot)
            paints.begin(app)
            await walk(app, pilot, paints)

    asyncio.run(whole())
    client.close()
    return paints


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize(("key", "most"), [("question_mark", 3), ("colon", 5)], ids=["help", "palette"])
def test_a_dialog_comes_whole_and_once(key: str, most: int, size: tuple[int, int]) -> None:
    async def walk(app: ConsoleApp, pilot: Pilot[None], paints: Paints) -> None:
        await pilot.press(key)
        await until(app, lambda _: paints)
        await pilot.pause(0.3)
        paints.whole_and_once(app, most)

    walked(walk, size)


def test_a_screen_that_was_seen_before_comes_whole_and_once() -> None:
    async def walk(app: ConsoleApp, pilot: Pilot[None], paints: Paints) -> None:
        for number in range(2, len(PLACES) + 1):
            paints.clear()
            await pilot.press(str(number))
            await until(app, lambda _: paints)
            await pilot.pause(0.3)
            paints.whole_and_once(app, 3)

    walked(walk)


def test_nothing_is_waited_for_but_the_screen_itself() -> None:
    async def walk(app: ConsoleApp, pilot: Pilot[None], paints: Paints) -> None:
        for key in ("2", "question_mark", "escape", "3"):
            paints.clear()
            await pilot.press(key)
            await until(app, lambda _: paints, seconds=LONG_S / 2)

    walked(walk)


def for_long(delay: Callable[..., None]) -> Callable[[ConsoleApp], None]:
    return lambda app: delay(app, LONG_S)


def test_a_resize_of_a_screen_behind_counts_when_it_comes_back() -> None:
    async def walk(app: ConsoleApp, pilot: Pilot[None], paints: Paints) -> None:
        await pilot.press("2")
        await pilot.resize_terminal(*WIDE)
        await pilot.pause(0.3)
        await pilot.press("1")
        await until(app, lambda text: len(text.split("\n")) == WIDE[1] and "6 Clients" in text)
        await until(app, lambda _: app.screen.has_class("-wide") and app.screen.has_class("-tall"))

    walked(walk)


def test_what_is_behind_a_dialog_is_there_whoever_draws_it() -> None:
    """Drawn anew outside a paint, too, and behind a second dialog."""

    async def walk(app: ConsoleApp, pilot: Pilot[None], paints: Paints) -> None:
        for title in ("one", "two"):
            app.tell(title, Text("words"))
            await until(app, lambda text, title=title: title in text)
            for screen in app.screen_stack:
                screen.refresh()
            assert "1 Overview" in shown(app)

    walked(walk, WIDE)
