"""Keys that arrive all at once, as over a slow line: they count in their order, each where it was meant to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from console_world import console, shown, until
from recorded import NOW, Recorded
from textual.events import Key
from textual.widgets import Input, Select

from cloister.console import keys
from cloister.console.screens.dialogs import Field


def at_once(app: Any, *keys: str) -> None:
    for key in keys:
        app.post_message(Key(key, key if len(key) == 1 else None))


def test_a_form_takes_a_burst_as_it_was_typed() -> None:
    told: list[dict[str, str]] = []
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, _):
            await until(app, lambda text: "alert" in text)
            fields = [
                Field("one", "One"),
                Field("two", "Two", choices=("first", "second")),
                Field("three", "Three", "x"),
                Field("four", "Four", secret=True),
            ]
            app.ask_form("A form", fields, told.append)
            await until(app, lambda text: "A form" in text)
            at_once(
                app,
                *"abx",
                "backspace",
                "c",
                "home",
                "delete",
                "tab",
                "tab",
                "end",
                *"ab",
                "left",
                "backspace",
            )
            at_once(app, "enter", *"secret", "backspace", "T")
            await until(app, lambda _: app.screen.query_one("#field-four", Input).value == "secreT")
            assert app.screen.query_one("#field-two", Select).value == "first"
            at_once(app, "enter")
            await until(app, lambda _: told)

    asyncio.run(walk())
    client.close()
    assert told == [{"one": "bc", "two": "first", "three": "xb", "four": "secreT"}]


def test_a_key_that_opens_something_counts_before_what_is_typed_behind_it() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, _):
            await until(app, lambda text: "alert" in text)
            at_once(app, "2", "slash", *"a1w")
            await until(app, lambda _: app.screen.query_one("#filter", Input).value == "a1w")
            assert app.place.scope == "data" and not app.armed
            at_once(app, "escape", "slash", "w", "escape", "w", "slash", *"=q")
            await until(app, lambda _: app.screen.query_one("#filter", Input).value == "=q")
            assert app.armed and app.place.scope == "data"
            at_once(app, "escape", "3", "colon", *"lock")
            await until(app, lambda text: "vault.lock" in text and "vault.unlock" in text)
            assert "vault.init" not in shown(app)

    asyncio.run(walk())
    client.close()


def test_a_choice_is_made_before_what_is_typed_behind_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEY_S", 60)  # how long this machine takes for a key is no matter here
    told: list[dict[str, str]] = []
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, _):
            await until(app, lambda text: "alert" in text)
            fields = [
                Field("one", "One", choices=("first", "second", "third")),
                Field("two", "Two"),
                Field("three", "Three"),
            ]
            app.ask_form("A form", fields, told.append)
            await until(app, lambda text: "A form" in text)
            at_once(app, "enter", "down", "enter", "pagedown", *"ab", "enter")
            await until(app, lambda _: told)

    asyncio.run(walk())
    client.close()
    assert told == [{"one": "second", "two": "", "three": "ab"}]


def test_a_key_that_comes_while_the_console_ends_is_nobodys() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, _):
            await until(app, lambda text: "alert" in text)
            screens = app.screen_stack
            app._screen_stack.clear()
            await app.on_event(Key("k", "k"))
            app._screen_stack.extend(screens)

    asyncio.run(walk())
    client.close()
