"""A screen that comes is painted once, when it stands: not half of it before, and not again behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from console_world import NARROW, WIDE, console, shown, until
from recorded import NOW, Recorded
from textual.pilot import Pilot

from cloister.console.actions import PLACES
from cloister.console.app import ConsoleApp

LONG_S = 60.0


class Paints(list[str]):
    """The screen as it was at each paint, from `begin` on."""

    def begin(self, app: ConsoleApp) -> None:
        display: Any = app._display

        def noted(screen: Any, update: Any) -> None:
            display(screen, update)
            if update is not None and not app._batch_count:
                self.append(shown(app))

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
                await pilot.pause(0.1)
            paints.begin(app)
            await walk(app, pilot, paints)

    asyncio.run(whole())
    client.close()
    return paints


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize(("key", "more"), [("question_mark", 1), ("colon", 2)], ids=["help", "palette"])
def test_a_dialog_comes_whole_and_once(key: str, more: int, size: tuple[int, int]) -> None:
    """`more` paints are of its scroll bar."""

    async def walk(app: ConsoleApp, pilot: Pilot[None], paints: Paints) -> None:
        await pilot.press(key)
        await pilot.pause(0.3)
        assert paints and paints[0] == shown(app)
        assert len(paints) <= 1 + more

    walked(walk, size)


def test_a_screen_that_was_seen_before_comes_whole_and_once() -> None:
    async def walk(app: ConsoleApp, pilot: Pilot[None], paints: Paints) -> None:
        for number in range(2, len(PLACES) + 1):
            paints.clear()
            await pilot.press(str(number))
            await pilot.pause(0.3)
            assert paints and paints[0] == shown(app)
            assert len(paints) <= 2, PLACES[number - 1]

    walked(walk)


def test_nothing_is_waited_for_but_the_screen_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConsoleApp, "delay_update", for_long(ConsoleApp.delay_update))

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
        await pilot.pause(0.3)
        assert len(shown(app).split("\n")) == WIDE[1]
        assert app.screen.has_class("-wide") and app.screen.has_class("-tall")

    walked(walk)
