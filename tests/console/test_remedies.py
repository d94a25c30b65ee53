"""What a remedy asks for on the command line is also said by the keys of the console."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from console_world import console, until
from recorded import NOW, Recorded

import cloister.console
from cloister.cli.main import EPILOG, NOUNS
from cloister.cli.root import build
from cloister.console.actions import BY_ID
from cloister.console.remedies import FIELDS, KEYS, here, with_keys
from cloister.errors import Locked


def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, click.Command]]:
    """Every command of the command line by its words."""
    monkeypatch.setattr("sys.argv", ["cloister", *NOUNS])
    root = typer.main.get_command(build(NOUNS, EPILOG))
    found = [("", root)]
    for words, command in found:
        yield words, command
        if hasattr(command, "list_commands"):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                found.append((f"{words} {name}".strip(), below))


def test_the_commands_options_and_fields_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(commands(monkeypatch))
    assert set(known) >= set(KEYS)
    assert set(BY_ID) >= set(KEYS.values())
    options = {name for command in known.values() for one in command.params for name in one.opts}
    assert options >= set(FIELDS)
    root = Path(cloister.console.__file__).parent
    forms = "".join(path.read_text() for path in root.glob("asking*.py"))
    assert [label for label in FIELDS.values() if f'"{label}"' not in forms] == []


@pytest.mark.parametrize(
    ("remedy", "scope", "said"),
    [
        ("Run `cloister unlock`.", "overview", "Here: u."),
        ("Run `cloister unlock`.", "audit", "Here: 1, then u."),
        ("See `cloister approval list`.", "runs", "Here: 4."),
        ("See `cloister approval list`.", "models", ""),
        ("cloister audit carry FOLDER", "overview", "Here: 7, then o."),
        ("`cloister run resume claims-1` goes on.", "runs", "Here: e."),
        ("See `cloister vault slot list`.", "runs", "Here: 8."),
        ("cloister serve list; tried again until `cloister serve stop x`", "serving", "Here: x."),
        ("Start it with `cloister up`.", "runs", ""),
        ("Use --input or --text.", "data", "Here: in the form 'Table: input column', 'Mapping file'."),
        ("Read with --encoding utf-16-le.", "data", "Here: in the form 'Encoding'."),
        ("Lower the learning rate.", "runs", ""),
    ],
)  # fmt: skip
def test_a_remedy_has_its_key(remedy: str, scope: str, said: str) -> None:
    assert here(remedy, scope) == said
    between = " " if remedy.endswith(".") else "   "
    assert with_keys(remedy, scope) == f"{remedy}{between}{said}".strip()


def test_no_remedy_has_no_key() -> None:
    assert with_keys(None) == ""


def test_what_is_refused_is_said_with_the_key_that_helps() -> None:
    client: Any = Recorded()

    def refuse(_: object) -> None:
        raise Locked("the vault is locked", remedy="Run `cloister unlock`.")

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, _):
            await until(app, lambda text: "alert" in text)
            app.request(refuse, doing="do it")
            await until(app, lambda text: "Run `cloister unlock`. Here: u." in text)

    asyncio.run(walk())
    client.close()


def test_an_alert_has_the_key_of_its_next_step() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("home", "enter")
            await until(app, lambda text: "cloister doctor" in text and "Here: 8, then d." in text)

    asyncio.run(walk())
    client.close()
