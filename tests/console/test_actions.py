"""The registry: every action has an id, a key, a line of help, and somebody who does it."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from typing import Any

import pytest
from textual.binding import Binding

from cloister.console.actions import ACTIONS, BY_ID, EVERYWHERE, PLACES, Action, in_scope
from cloister.console.app import ConsoleApp
from cloister.console.help import page
from cloister.console.widgets.rows import Rows
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


def test_no_key_shadows_what_the_widgets_need() -> None:
    taken = {key for kind in Rows.__mro__ for key in keys_of(getattr(kind, "BINDINGS", []))} - {"enter"}
    assert {"j", "home", "pagedown"} <= taken
    assert not taken & {action.key for action in ACTIONS}


def keys_of(bindings: list[Any]) -> set[str]:
    return {key for one in bindings if isinstance(one, Binding) for key in one.key.split(",")}
