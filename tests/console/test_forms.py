"""Forms and texts over the screen: what is wrong is said where it was typed, and nothing has to be typed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from console_world import console, shown, type_in, until
from recorded import NOW, Recorded
from rich.text import Text
from textual.widgets import Input

from cloister.console.drafts import Draft
from cloister.console.screens.dialogs import Field
from cloister.errors import CloisterError

FIELDS = (
    Field("name", "Name", needed=True),
    Field("how", "How", choices=("first", "second"), kept=False),
    Field("secret", "Secret", secret=True),
    *(Field(f"more{number}", f"More {number}") for number in range(8)),
    Field("many", "How many", "1", number=int),
)


def value(app: Any, name: str) -> str:
    return str(app.screen.query_one(f"#field-{name}", Input).value)


def test_what_is_wrong_is_said_in_the_form_and_nothing_is_typed_twice() -> None:
    told: list[dict[str, str]] = []
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)

            def go_on(values: dict[str, str]) -> None:
                told.append(values)
                if len(told) == 1:
                    app.mistaken("the secret is too short")
                else:
                    app.request(lambda _: answer(len(told)), doing="do it")

            def answer(number: int) -> None:
                if number == 2:
                    raise CloisterError("that name is taken")

            def ask(fields: Sequence[Field] = FIELDS) -> None:
                app.ask_form("A form", fields, go_on)

            ask()
            await until(app, lambda text: "A form" in text and "Enter next   PgDn last field" in text)
            field = app.screen.query_one("#field-name", Input)
            assert field._cursor_visible and not field.cursor_blink, (
                "the cursor is there whenever somebody looks"
            )
            await pilot.press("pagedown", "enter")
            await until(app, lambda text: "× Name: is needed" in text)
            await type_in(pilot, "claims")
            await pilot.press("tab")
            await until(app, lambda text: "Enter choose" in text)
            await pilot.press("pagedown")
            await until(app, lambda text: "Enter do it" in text)
            await pilot.press("x", "enter")
            await until(app, lambda text: "× How many: a whole number goes here" in text)
            await pilot.press("pageup", "tab", "tab", *"xx", "pagedown", "7", "enter")
            await until(app, lambda text: "× the secret is too short" in text)
            assert (value(app, "name"), value(app, "secret"), value(app, "many")) == ("claims", "", "7")
            await pilot.press("pagedown", "enter")
            await until(app, lambda text: "that name is taken" in text)
            ask()
            await until(app, lambda text: "A form" in text)
            assert (value(app, "name"), value(app, "many")) == ("claims", "7")
            await pilot.press("escape")
            app.ask_form("Another form", FIELDS, told.append)
            await until(app, lambda text: "Another form" in text)
            assert value(app, "name") == ""
            await pilot.press("escape")
            ask()
            await until(app, lambda text: "A form" in text)
            await pilot.press("pagedown", "enter")
            await until(app, lambda _: len(told) == 3 and not app._draft._values)
            ask()
            await until(app, lambda text: "A form" in text)
            assert value(app, "name") == ""

    asyncio.run(walk())
    client.close()
    assert told[-1].items() >= {"name": "claims", "how": "first", "secret": "", "many": "7"}.items()


def test_a_draft_keeps_no_secret_and_no_choice_that_is_gone() -> None:
    draft = Draft()
    fields = (Field("a", "A", choices=("x", "y")), Field("b", "B", secret=True), Field("c", "C", kept=False))
    draft.keep("t", fields, {"a": "y", "b": "hidden", "c": "once"})
    assert "hidden" not in str(vars(draft))
    assert [one.value for one in draft.filled("t", fields)] == ["y", "", ""]
    assert [one.value for one in draft.filled("t", (Field("a", "A", choices=("x",)),))] == [""]
    assert [one.value for one in draft.filled("other", fields)] == ["", "", ""]


def test_what_is_shown_once_is_not_closed_by_a_stray_enter() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            app.tell("The key", Text("clo-once"), copied="clo-once", once=True)
            await until(app, lambda text: "clo-once" in text)
            await pilot.press("enter", "q", "y")
            await until(app, lambda text: "● sent to your terminal's clipboard" in text)
            assert "clo-once" in shown(app)
            await pilot.press("escape")
            await until(app, lambda text: "clo-once" not in text)
            app.tell("Words", Text("to be read"))
            await until(app, lambda text: "to be read" in text)
            await pilot.press("enter")
            await until(app, lambda text: "to be read" not in text)

    asyncio.run(walk())
    client.close()


def test_what_was_said_is_gone_where_somebody_comes_back_to() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            app.say("The vault is locked.")
            await until(app, lambda text: "● The vault is locked." in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            await pilot.press("1")
            assert "The vault is locked." not in await until(app, lambda text: "→ merge" in text)
            app.say("Once more.")
            await until(app, lambda text: "Once more." in text)
            await pilot.press("escape")
            await until(app, lambda text: "Once more." not in text)

    asyncio.run(walk())
    client.close()


def test_the_cursor_begins_where_something_is_typed() -> None:
    told: list[dict[str, str]] = []
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            fields = (Field("how", "How", choices=("first", "second")), Field("word", "Word", begins=True))
            app.ask_form("A form", fields, told.append)
            await until(app, lambda text: "Enter do it   PgUp first field" in text)
            await pilot.press("x", "enter")
            await until(app, lambda _: told)

    asyncio.run(walk())
    client.close()
    assert told == [{"how": "first", "word": "x"}]


def test_a_question_mark_asks_what_goes_into_the_field() -> None:
    client: Any = Recorded()
    told: list[dict[str, str]] = []

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            fields = [
                Field("why", "Reason", help="stands in the ledger", needed=True),
                Field("class", "Class", choices=("public", "internal")),
                Field("word", "Word", secret=True),
                Field("count", "Count", number=int),
            ]
            app.ask_form("A form", fields, told.append)
            await until(app, lambda text: "? help" in text)
            await pilot.press("question_mark")
            text = await until(app, lambda text: "Help: A form" in text)
            assert "stands in the ledger" in text and "needed" in text and "public" not in text
            await pilot.press("escape")
            await until(app, lambda text: "Help:" not in text)
            await pilot.press("a", "question_mark", "tab", "question_mark")
            text = await until(app, lambda text: "Help: A form" in text)
            assert "public, internal" in text and "stands in the ledger" not in text
            await pilot.press("escape", "tab", "question_mark", "tab", "question_mark")
            await until(app, lambda text: "a whole number" in text)
            await pilot.press("escape", "7", "enter")
            await until(app, lambda _: told)

    asyncio.run(walk())
    client.close()
    assert told == [{"why": "a?", "class": "public", "word": "?", "count": "7"}]


def test_a_question_mark_asks_what_a_name_would_do() -> None:
    client: Any = Recorded()
    done: list[str] = []

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            app.confirm("End it", Text("all of it"), "it", "end it", lambda: done.append("it"))
            await until(app, lambda text: "all of it" in text)
            await pilot.press("question_mark")
            text = await until(app, lambda text: "Help: End it" in text)
            assert "Enter would end it" in text and not done
            await pilot.press("escape", "i", "t", "enter")
            await until(app, lambda _: done)

    asyncio.run(walk())
    client.close()


def test_a_field_in_which_something_is_typed_is_explained_too() -> None:
    client: Any = Recorded()
    told: list[dict[str, str]] = []

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            fields = [Field("why", "Reason", help="stands in the ledger"), Field("word", "Word", secret=True)]
            app.ask_form("A form", fields, told.append)
            await until(app, lambda text: "last field   ? help" in text)
            await pilot.press("a")
            await until(app, lambda text: "last field   ctrl+g help" in text)
            await pilot.press("ctrl+g")
            await until(app, lambda text: "Help: A form" in text and "stands in the ledger" in text)
            await pilot.press("escape", "b", "tab", "ctrl+g")
            await until(app, lambda text: "Help: A form" in text and "never kept" in text)
            await pilot.press("escape", "s", "enter")
            await until(app, lambda _: told)
            app.confirm("End it", Text("all of it"), "it", "end it", lambda: told.append({}))
            await until(app, lambda text: "all of it" in text and "ctrl+g help" in text)
            await pilot.press("i", "ctrl+g")
            await until(app, lambda text: "Enter would end it" in text)
            await pilot.press("escape", "t", "enter")
            await until(app, lambda _: len(told) == 2)

    asyncio.run(walk())
    client.close()
    assert told == [{"why": "ab", "word": "s"}, {}]


def test_a_command_is_explained_before_it_is_done() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("colon", "question_mark")
            await until(app, lambda text: "Help: commands" in text and "needs    the console armed" in text)
            await pilot.press("escape")
            await type_in(pilot, "client.revoke")
            await pilot.press("ctrl+g")
            text = await until(app, lambda text: "Help: commands" in text)
            assert "client.revoke" in text and "then its name typed" in text and "clients" in text
            await pilot.press("escape", "question_mark")
            await until(app, lambda text: "client.revoke?" in text)
            await pilot.press("ctrl+g")
            await until(app, lambda text: "No command has all of these letters" in text)
            await pilot.press("escape", "escape", "slash", "question_mark", "ctrl+g")
            await until(app, lambda text: "Help: overview" in text)
            await pilot.press("escape")
            await until(app, lambda text: "Help:" not in text)
            assert app.screen.query_one("#filter", Input).value == "?"

    asyncio.run(walk())
    client.close()


def test_all_that_is_touched_can_be_read_before_its_name_is_typed() -> None:
    client: Any = Recorded()
    done: list[str] = []

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            touched = Text("\n".join(f"thing {number:02}." for number in range(40)))
            app.confirm("End them", touched, "it", "end them", lambda: done.append("it"))
            assert "thing 39." not in await until(app, lambda text: "thing 00." in text)
            await pilot.press("down", "down")
            await until(app, lambda text: "thing 01." not in text and "thing 02." in text)
            await pilot.press("i", *["pagedown"] * 5, "up")
            await until(app, lambda text: "thing 38." in text and "thing 39." not in text)
            await pilot.press("t", "enter")
            await until(app, lambda _: done)

    asyncio.run(walk())
    client.close()
