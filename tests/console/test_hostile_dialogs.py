"""Hostile strings in dialogs, in lines to type into, in what came of a request, and in the plain mode."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from console_world import console, shown, until
from recorded import LOOKED, NOW, Recorded
from rich.text import Text
from test_hostile_text import HOSTILE, hostile, is_harmless, poisoned
from textual.events import Paste
from textual.widgets import Input

from cloister.api import AddedSlot, Event, IssuedClient, LedgerWitness
from cloister.console import asking, asking_import, asking_keeping, asking_out
from cloister.console.actions import PLACES, in_scope
from cloister.console.messages import Away
from cloister.console.paint import outside, stack
from cloister.console.plain import now, sentence
from cloister.console.screens.clients import ClientsPlace
from cloister.console.screens.dialogs import TITLE, Confirm, Field, Form, Tell
from cloister.console.screens.place import ListPlace
from cloister.console.widgets.entry import LONGEST, Entry, Prompt
from cloister.console.widgets.rows import Rows
from cloister.errors import CloisterError, Unavailable


class Refusing(Recorded):
    """A hostile appliance that refuses what it is asked with hostile words."""

    def __init__(self) -> None:
        super().__init__()
        told = hostile()
        self.answers, self.entries = told.answers, told.entries
        witness = LedgerWitness(ledger="control", command="next")
        status = self.answers["status"]
        ledger = status.ledger.model_copy(update={"witnesses": [poisoned(witness, text) for text in HOSTILE]})
        self.answers["status"] = status.model_copy(update={"ledger": ledger})
        who = self.answers["whoami"]
        self.answers["whoami"] = who.model_copy(update={"actions": [*who.actions, "slot.list"]})
        self.turn = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("answers", "turn") or name in self.answers:
            return super().__getattr__(name)

        def refuse(*_: Any, **__: Any) -> Any:
            self.turn += 1
            text = HOSTILE[self.turn % len(HOSTILE)]
            raise CloisterError(text, where=text, remedy=text)

        return refuse


LEFT_OUT = ("quit", "arm", "filter", "palette", "back", "copy", "doctor")


@pytest.mark.parametrize("place", PLACES)
def test_no_key_of_a_screen_shows_what_would_act(place: str) -> None:
    """Each action over a line of another string: its dialog, and what is said when the authority refuses."""
    client: Any = Refusing()
    actions = [one for one in in_scope(place) if one.id not in LEFT_OUT and not one.id.startswith("go.")]

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alerts" in text)
            await pilot.press(str(PLACES.index(place) + 1), "w")
            await until(app, lambda text: "ARMED" in text)
            await pilot.pause(0.1)
            dialogs = 0
            for number, action in enumerate(actions):
                assert isinstance(app.place, ListPlace)
                app.place.query_one(Rows).move_cursor(number * 3 % 40)
                await pilot.press(action.key)
                for _ in range(3):
                    await pilot.pause(0.02)
                    assert is_harmless(shown(app)), action.id
                dialogs += len(app.screen_stack) > 1
                while len(app.screen_stack) > 1 or app.place.has_class("-open"):
                    await pilot.press("escape")
                    await pilot.pause()
            assert app.is_running and dialogs >= 1

    asyncio.run(walk())
    client.close()


def test_dialogs_are_text_in_title_body_name_and_fields() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, (100, 50), clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            for at in range(0, len(HOSTILE), 3):
                some = (HOSTILE[at : at + 3] * 3)[:3]
                body = stack(*map(outside, some))
                for dialog in (Tell(some[0], body), Confirm(some[1], body, some[2], "do it")):
                    app.push_screen(dialog)
                    await pilot.pause()
                    assert is_harmless(shown(app)), (type(dialog).__name__, at)
                    app.pop_screen()
            for at in range(0, len(HOSTILE), 6):
                some = HOSTILE[at : at + 6]
                fields = [Field(f"f{n}", text, text, text) for n, text in enumerate(some)]
                fields += [Field(f"c{n}", text, choices=(text, "other")) for n, text in enumerate(some)]
                app.push_screen(Form(some[0], fields, note=outside(some[-1])))
                await pilot.pause()
                assert is_harmless(shown(app)), at
                app.pop_screen()
            assert app.is_running

    asyncio.run(walk())
    client.close()


def test_what_is_wrong_with_the_authority_is_text() -> None:
    client: Any = Recorded()
    client.away = True

    def fails(*_: Any, **__: Any) -> Any:
        raise Unavailable(HOSTILE[0], remedy=HOSTILE[1])

    client.status = client.events = fails

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "AUTHORITY AWAY" in text)
            for text in HOSTILE:
                app.on_away(Away(text, text))
                await pilot.pause()
                assert is_harmless(shown(app)), HOSTILE.index(text)

    asyncio.run(walk())
    client.close()


def test_what_is_pasted_neither_acts_nor_hides() -> None:
    """Into a line of a form, and into a filter; the cursor stays behind it."""
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            app.push_screen(Form("A form", [Field("one", "One")]))
            await pilot.pause()
            line = app.screen.query_one(Input)
            for text in HOSTILE:
                line.value = ""
                line.post_message(Paste(text + "z"))
                await pilot.pause()
                await pilot.press("q")
                assert is_harmless(shown(app)), HOSTILE.index(text)
                assert len(line.value) <= LONGEST and line.value.endswith("q")
                assert line.cursor_position == len(line.value)
            line.value, line.cursor_position = "ab", 1
            line.post_message(Paste("x\u202ey"))
            await pilot.pause()
            await pilot.press("q")
            assert line.value == "axyqb"
            assert isinstance(app.screen, Form) and app.is_running

    asyncio.run(walk())
    client.close()


def test_a_prompt_keeps_what_joins_letters_and_a_name_does_not() -> None:
    word = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert Prompt()._clean(word) == word
    assert Entry()._clean(word) == word.replace("\u200c", "")
    assert Entry()._clean("a\tb\x1b[31mc\u202ed") == "a b [31mcd"


class Heard:
    """What a request says and shows when it is over, as it would be drawn."""

    def __init__(self) -> None:
        self.texts: list[Text] = []

    def say(self, text: str, mood: str = "good") -> None:
        self.texts.append(outside(text, 500))

    def tell(self, title: str, text: Text, *, copied: str | None = None, once: bool = False) -> None:
        self.texts += [outside(title, TITLE), text]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_came_of_a_request_is_text(text: str) -> None:
    """Of an import and its dry run, a backup, forgetting, new shares, a new key; done or failed."""
    client = Recorded()
    heard: Any = Heard()
    one = poisoned(client.answers["datasets"][0], text)
    fields = (
        "rows", "refused", "remedy", "source_format", "task", "bad_rows", "train_rows", "holdout_rows", "version",
        "rows_forgotten", "identifiers_found", "identifiers", "backup_id", "packs", "copied", "keys_until",
    )  # fmt: skip
    for state in ("done", "failed"):
        job = poisoned(LOOKED, text).model_copy(
            update={"state": state, "result": dict.fromkeys(fields, text) | {"copied_bytes": 1}}
        )
        if state == "done":
            job = job.model_copy(update={"error": None})
        asking_import._imported(heard, text, job, [text])
        asking_import._tried(heard, text, job, [text])
        asking_out._forgotten(heard, one, job)
        asking_keeping._backed_up(heard, job)
        asking.ended(heard, job, text)
    asking_keeping._added(heard, AddedSlot(slot=2, kind=text, shares=[text, text]), 2)
    issued = IssuedClient(client=poisoned(client.answers["clients"][0], text), api_key="clo-x")
    ClientsPlace._show_key(SimpleNamespace(console=heard), issued)  # type: ignore[arg-type]
    assert len(heard.texts) > 15
    assert all(is_harmless(shown_text.plain) and len(shown_text) < 60_000 for shown_text in heard.texts)


def test_the_plain_mode_prints_nothing_that_acts() -> None:
    client: Any = hostile()
    lines = list(now(client))
    lines += [
        told
        for text in HOSTILE
        for kind in ("job.state", "job.progress", "job.metrics", text[:200])
        if (
            told := sentence(
                Event(
                    seq=1,
                    time=NOW,
                    kind=kind,
                    subject=text[:4000],
                    data={
                        "state": text,
                        "stage": text,
                        "total": 3,
                        "done": 1,
                        "values": {"holdout_loss": 1.0},
                    },
                )
            )
        )
    ]
    assert len(lines) > 4 * len(HOSTILE)
    assert all(is_harmless(line) and "\n" not in line for line in lines)
