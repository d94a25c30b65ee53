"""The console in a test: its application over a real authority, or over recorded documents, and what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from cloister.client import Client
from cloister.console.app import ConsoleApp

NARROW, WIDE = (80, 24), (120, 40)


def shown(app: ConsoleApp) -> str:
    """The screen as text, a line a row."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in strips)


async def until(app: ConsoleApp, wanted: Callable[[str], object], *, seconds: float = 15) -> str:
    """Wait until the screen says what is wanted; returns it. Fails with the screen as it is."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        text = shown(app)
        if wanted(text):
            return text
        assert asyncio.get_running_loop().time() < end, text
        await asyncio.sleep(0.02)


@asynccontextmanager
async def console(
    connect: Callable[[], Client] | Path, size: tuple[int, int] = NARROW, **options: Any
) -> AsyncIterator[tuple[ConsoleApp, Pilot[None]]]:
    """The application over a socket, or over what `connect` makes."""
    make = (lambda: Client(connect)) if isinstance(connect, Path) else connect
    app = ConsoleApp(make, machine="test-machine", **options)
    async with app.run_test(size=size) as pilot:
        yield app, pilot


async def type_in(pilot: Pilot[None], text: str) -> None:
    """Type text, as somebody does."""
    names = {" ": "space", "-": "minus", ".": "full_stop", "/": "slash", "_": "underscore"}
    await pilot.press(*(names.get(character, character) for character in text))
