"""The console in a test: its application over a real authority, or over recorded documents, and what it shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from textual.pilot import Pilot
from textual.widget import Widget

from cloister.client import Client
from cloister.console.app import ConsoleApp
from cloister.console.machine import Machine

MACHINE = Machine(memory_used=3 << 30, memory_total=8 << 30, load=1.5, cores=4)
NARROW, WIDE = (80, 24), (120, 40)
THREADS: WeakKeyDictionary[ConsoleApp, set[threading.Thread]] = WeakKeyDictionary()
"""Those that were there before a console began: of earlier tests."""


def shown(app: ConsoleApp) -> str:
    """The screen as text, a line a row."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in strips)


async def until(app: ConsoleApp, wanted: Callable[[str], object], *, seconds: float = 60) -> str:
    """Wait until the screen in front has been told all that it shows, and says what is wanted; returns it. Fails with
    the screen as it is."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        told, text = told_all(app), shown(app)
        if wanted(text) and told:
            return text
        assert asyncio.get_running_loop().time() < end, text
        await asyncio.sleep(0.02)


def told_all(app: ConsoleApp) -> bool:
    """Whether what the screen in front shows was read, or refused. Before, a key may find another line than after."""
    place, picture = app.place, app.picture
    return (
        place is None or picture.away is not None or {*picture.read, *picture.refused}.issuperset(place.needs)
    )


async def still(app: ConsoleApp, pilot: Pilot[None]) -> None:
    """Wait until the screen in front has what it needs, nothing more is being asked, and all of it is shown: a picture
    is of what there is, however long reading it took."""

    def asks() -> bool:
        begun = [one for one in threading.enumerate() if one not in THREADS[app]]
        if app._reading or any(one.name.endswith(("(work)", "(ask)")) for one in begun):
            return True
        return app.place is None or not told_all(app) or (app.picture.away is None and bool(app._wanted))

    while True:
        await until(app, lambda _: not asks())
        await pilot.pause()
        if not asks():
            return


@asynccontextmanager
async def console(
    connect: Callable[[], Client] | Path, size: tuple[int, int] = NARROW, **options: Any
) -> AsyncIterator[tuple[ConsoleApp, Pilot[None]]]:
    """The application over a socket, or over what `connect` makes. No thread but its own touches a widget."""
    make = (lambda: Client(connect)) if isinstance(connect, Path) else connect
    app = ConsoleApp(make, **{"machine": "test-machine", "look_at_machine": lambda: MACHINE} | options)
    THREADS[app] = set(threading.enumerate())
    with untouched_from_elsewhere():
        async with app.run_test(size=size) as pilot:
            yield app, pilot


@contextmanager
def untouched_from_elsewhere() -> Iterator[None]:
    """Whatever changes a widget in sight has it drawn anew; that is asked for in this thread alone."""
    here, refresh = threading.get_ident(), Widget.refresh
    elsewhere: list[str] = []

    def watched(self: Widget, *regions: Any, **options: Any) -> Any:
        if threading.get_ident() != here:
            elsewhere.append(f"{self} in {threading.current_thread().name}")
        return refresh(self, *regions, **options)

    Widget.refresh = watched  # type: ignore[assignment]
    try:
        yield
    finally:
        Widget.refresh = refresh  # type: ignore[method-assign]
    assert not elsewhere


async def type_in(pilot: Pilot[None], text: str) -> None:
    """Type text, as somebody does."""
    names = {" ": "space", "-": "minus", ".": "full_stop", "/": "slash", "_": "underscore"}
    await pilot.press(*(names.get(character, character) for character in text))
