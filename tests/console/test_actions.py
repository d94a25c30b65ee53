"""The registry: every action has an id, a key, a line of help, and somebody who does it."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from console_world import WIDE, console, type_in, until
from recorded import NOW, Recorded, stored
from textual.binding import Binding

from cloister import console as console_package
from cloister.console import screens
from cloister.console.actions import ACTIONS, BY_ID, EVERYWHERE, PLACES, Action, in_scope
from cloister.console.app import ConsoleApp
from cloister.console.help import page
from cloister.console.screens.dialogs import Confirm
from cloister.console.widgets.rows import Rows
from cloister.errors import CloisterError
from cloister.policy.actions import BY_NAME

FORBIDDEN = re.compile(r"ctrl\+[absqcz]|f[0-9]+|alt\+.*")
"""What tmux, screen and terminals take for themselves, or lack."""


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_an_action_has_id_key_and_help(action: Action) -> None:
    assert re.fullmatch(r"[a-z]+(\.[a-z]+)?", action.id)
    assert action.label and action.help and action.key
    assert not action.help.endswith(".") and len(action.help) < 80
    assert not FORBIDDEN.fullmatch(action.key)
    assert set(action.scopes) <= {EVERYWHERE, *PLACES}
    assert action.policy is None or action.policy in BY_NAME


@pytest.mark.parametrize("scope", PLACES)
def test_keys_are_unique_where_they_count(scope: str) -> None:
    twice = [key for key, count in Counter(action.key for action in in_scope(scope)).items() if count > 1]
    assert not twice


def test_ids_are_unique() -> None:
    assert len(BY_ID) == len(ACTIONS)


@pytest.mark.parametrize("scope", PLACES)
def test_each_screen_does_its_actions_and_explains_itself(scope: str) -> None:
    place = importlib.import_module(f"cloister.console.screens.{scope}").PLACE
    assert place.scope == scope
    for action in ACTIONS:
        if scope in action.scopes:
            assert callable(getattr(place, action.method, None)), action.id
        elif EVERYWHERE in action.scopes and not action.id.startswith("go."):
            assert callable(getattr(place, action.method, getattr(ConsoleApp, action.method, None))), (
                action.id
            )
    assert len(page(scope).split()) > 20


def test_what_changes_something_is_decided_by_policy() -> None:
    assert all(action.policy is not None for action in ACTIONS if action.changes)


@pytest.mark.parametrize("place", [one for one in PLACES if one != "audit"])
def test_what_destroys_or_ends_something_asks_for_its_name(place: str) -> None:
    """Pressed on an armed console over things that are there, nothing is asked of the authority but what it would
    touch, until a dialog that shows that has its name."""
    client = Told()
    actions = [one for one in ACTIONS if one.destroys and place in one.scopes]
    assert actions

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press(str(PLACES.index(place) + 1), "w")
            await until(app, lambda text: "ARMED" in text and "Reading" not in text)
            for action in actions:
                if action.id == "job.cancel" and place != "overview":
                    continue  # no job stands there now
                await pilot.press(*LINE.get(action.id, ("home",)), action.key)
                await until(app, lambda _: len(app.screen_stack) > 1)
                await pilot.press(*FORM.get(action.id, ()))
                await until(app, lambda _: isinstance(app.screen, Confirm))
                assert isinstance(app.screen, Confirm) and app.screen._name, action.id
                assert app.screen._touched.plain.strip(), action.id
                await type_in(pilot, "something-else")
                await pilot.press("enter")
                await until(app, lambda text: "that is not its name" in text)
                await pilot.press("escape", "escape")
                await until(app, lambda _: len(app.screen_stack) == 1)

    asyncio.run(walk())
    client.close()
    assert client.did == []


class Told(Recorded):
    """Keeps every question that is none of reading."""

    READING = re.compile(
        r"status|whoami|alerts|datasets|bases|models|runs|jobs|deployments|clients|approvals|holds|slots|backups|plan|"
        r"last_report|run_curve|engine_loads"
    )

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []
        slot = self.answers["slots"][0]
        self.answers["slots"] = [slot, slot.model_copy(update={"slot": 2})]
        held = self.answers["holds"][0].model_copy(update={"object_id": "ds-cccccccccccc"})
        self.answers["holds"] = [held]
        older = self.answers["deployments"][1].model_copy(update={"model": "mm-gggggggggggg"})
        self.answers["deployments"] = [self.answers["deployments"][0], older]
        self.answers["models"] = [*self.answers["models"], stored("model", "mm", "gone-by")]

    def __getattr__(self, name: str) -> Any:
        if self.READING.fullmatch(name):
            return super().__getattr__(name)

        def asked(*_: Any, **__: Any) -> Any:
            self.did.append(name)
            raise CloisterError("asked")

        return asked


LINE = {
    "job.cancel": ("slash", *"jb-b", "enter"),
    "approval.withdraw": ("home",),
    "model.rollback": ("slash", *"merged", "enter"),
    "model.export": ("slash", *"merged", "enter"),
    "model.shred": ("slash", *"merged", "enter"),
}
"""Keys that lead to the line that an action is about, where that is not the first."""
FORM = {
    "vault.lock": ("pageup", "enter", "down", "down", "enter", "tab", "enter"),
    "model.export": (*"/mnt/out", "enter", "enter"),
    "slot.remove": ("tab", *"secret", "enter"),
    "backup.discard": ("tab", "enter"),
}
"""Keys that fill in the form before the dialog, where there is one."""


def test_no_screen_is_longer_than_three_hundred_lines() -> None:
    lengths = {
        path.name: len(path.read_text().splitlines()) for path in Path(screens.__file__).parent.glob("*.py")
    }
    assert len(lengths) > len(PLACES)
    assert not {name: length for name, length in lengths.items() if length > 300}


def test_nothing_in_the_console_needs_a_key_that_terminals_keep() -> None:
    """Of every screen, dialog and widget of ours, not of the registry alone. ctrl+c leaves, as `q` does."""
    found = []
    for module in pkgutil.walk_packages(console_package.__path__, "cloister.console."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and kind.__module__ == module.name and "BINDINGS" in vars(kind):
                found += [(kind.__name__, key.strip()) for key in keys_of(kind.BINDINGS)]
    assert len(found) > 60
    assert [one for one in found if FORBIDDEN.fullmatch(one[1])] == [("Shell", "ctrl+c")]


def test_no_key_shadows_what_the_widgets_need() -> None:
    taken = {key for kind in Rows.__mro__ for key in keys_of(getattr(kind, "BINDINGS", []))} - {"enter"}
    assert {"j", "home", "pagedown"} <= taken
    assert not taken & {action.key for action in ACTIONS}


def keys_of(bindings: list[Any]) -> set[str]:
    return {key for one in bindings if isinstance(one, Binding) for key in one.key.split(",")}
