"""Hostile strings in every field that shows text from outside: nothing is interpreted, nothing falls over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from console_world import console, shown, until
from pydantic import BaseModel
from recorded import FULL, NOW, PLAN, REPORT, Recorded

from cloister.api import PersonalFigures, PlanAdvice, PlanPart
from cloister.console.actions import PLACES
from cloister.console.asking_run import expected, no_plan
from cloister.console.reporting import told
from cloister.console.screens.place import ListPlace
from cloister.console.weighing import whole
from cloister.shown import visible

HOSTILE = [
    "[bold red]markup[/]",
    "[/]",
    "[link=file:///etc/passwd]x[/link]",
    "[@click=app.quit]x[/]",
    "[",
    "]]",
    "\\[b]",
    "[[",
    "\x1b[31mred\x1b[0m",
    "\x1b]52;c;aGFjaw==\x07",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x1b[6n",
    "\x1bP+q\x1b\\",
    "\x1b[?1049l",
    "\x1bc",
    "\r× gone",
    "a\nb",
    "a\tb",
    "a\x0bb",
    "\x00",
    "\x7f",
    "\x08\x08\x08",
    "\x85",
    "\u2028x",
    "\u2029x",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "\u200f",
    "\u061c",
    "\u200b\u200b",
    "a\u200db",
    "\ufeff",
    "\u2060",
    "\u00ad",
    "\u3164",
    "\u115f",
    "\u034f",
    "\ufe0f",
    "e" + "\u0301" * 200,
    "\U000e0041\U000e0042",
    "\ud800",
    "界" * 300,
    "👩‍👩‍👧‍👦" * 20,
    "ﷺ" * 50,
    "x" * (1 << 20),
    "│ ╰──╯ Approve? y",
    "● verified",
    "%s%n{0}{name}",
    "'; DROP TABLE",
    "$(reboot)`id`",
]
STRUCTURE = frozenset(
    (
        "state",
        "kind",
        "severity",
        "verb",
        "object_id",
        "run_id",
        "job_id",
        "deployment_id",
        "client_id",
        "approval_id",
        "hold_id",
        "backup_id",
        "key",
        "adapter",
        "dataset",
        "base",
        "model",
        "sandbox",
        "colour",
        "method",
        "dtype",
        "classification",
        "form",
        "home",
        "time",
        "event",
        "holdout",
        "digest",
        "train",
        "evaluate",
        "config",
    )
)
"""Fields that the authority's own types keep to words and ids of ours."""


def poisoned(value: Any, text: str) -> Any:
    """The document with that text in every field that could hold some."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        changes = {name: poisoned(getattr(value, name), text) for name in fields if name not in STRUCTURE}
        return value.model_copy(update=changes)
    if isinstance(value, dict):
        return {key: poisoned(item, text) for key, item in value.items()} | {text[:2000]: text}
    if isinstance(value, list):
        return [poisoned(item, text) for item in value]
    return text if isinstance(value, str) else value


def hostile() -> Recorded:
    """A line of every sort for each string."""
    client = Recorded()
    ids = {
        "datasets": "object_id",
        "bases": "object_id",
        "models": "object_id",
        "runs": "run_id",
        "jobs": "job_id",
        "deployments": "deployment_id",
        "clients": "client_id",
        "approvals": "approval_id",
        "alerts": "key",
        "backups": "backup_id",
    }
    for shelf, key in ids.items():
        first = client.answers[shelf][0]
        client.answers[shelf] = [
            poisoned(first, text).model_copy(update={key: f"{shelf[:2]}-{number:012}"})
            for number, text in enumerate(HOSTILE)
        ]
    client.entries = [
        poisoned(client.entries[0], text).model_copy(update={"index": number})
        for number, text in enumerate(HOSTILE)
    ]
    status = poisoned(client.answers["status"], HOSTILE[0])
    client.answers["status"] = status.model_copy(
        update={"warnings": HOSTILE[:-6], "processes": [], "deployments": []}
    )
    client.answers["whoami"] = client.answers["whoami"].model_copy(update={"account": HOSTILE[8]})
    return client


def is_harmless(text: str) -> bool:
    """Whether nothing in it acts on a terminal or hides."""
    return all(character == "\n" or visible(character) == character for character in set(text))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_made_visible_is_harmless(text: str) -> None:
    assert is_harmless(visible(text, limit=400))
    assert len(visible(text, limit=400)) <= 4000


@pytest.mark.parametrize("place", PLACES)
def test_no_screen_interprets_what_it_shows(place: str) -> None:
    client = hostile()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, size=(120, 40), clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alerts" in text)
            await pilot.press(str(PLACES.index(place) + 1))
            await pilot.pause(0.3)
            for _ in range(8):  # as drawn, with all that surrounds it
                await pilot.press("pagedown" if place == "models" else "down")
                assert is_harmless(shown(app))
            assert isinstance(app.place, ListPlace)
            for line in app.place.lines(app.picture):  # and what each line says when it is opened
                told = [*line.cells, app.place.about(line.key, app.picture)]
                assert all(is_harmless(text.plain) for text in told)
            assert len(app.screen_stack) == 1 and app.is_running
            if place == "data":
                await pilot.press("home", "w", "D")
                asked = await until(app, lambda text: "cannot be undone" in text)
                assert "[bold red]markup[/]" in asked and is_harmless(asked)
            if place == "models":
                await pilot.press("home", "w", "a")
                asked = await until(app, lambda text: "Approve what somebody else asked for" in text)
                assert "[bold red]markup[/]" in asked

    asyncio.run(walk())
    client.close()


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_reports_plans_and_tables_are_text(text: str) -> None:
    """Whatever words a document has, and wherever it has them."""
    personal = PersonalFigures(looked_at=3, rows=1, found={"email": {text: 1}})
    report = REPORT.model_copy(update={"task": text, "lost": {text: 1}, "personal": personal})
    advice = PlanAdvice(change={text: text}, costs=text, memory=1, fits=False)
    part = PlanPart(name=text, bytes=1, of=text)
    plan = PLAN.model_copy(
        update={"parts": [part], "advice": [advice], "notes": [text], "currency": text, "fits": False}
    )
    table = {**FULL["table"], "lines": [{**line, "name": text} for line in FULL["table"]["lines"]]}
    full = FULL | {"table": table | {"groups": []}, "verdict": {"sentences": [text]}, "notes": [text]}
    run = Recorded().answers["runs"][0].model_copy(update={"evaluation": {"full": full}})
    for shown_text in (told(report), expected(plan), whole(run), no_plan(text)):
        assert is_harmless(shown_text.plain) and len(shown_text) < 40_000


def test_a_line_of_the_log_and_a_refusal_are_text() -> None:
    """What workers say and what errors hold goes the same way."""
    client = Recorded()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, _):
            await until(app, lambda text: "1 alert" in text)
            for text in HOSTILE:
                app.say(text)
                await asyncio.sleep(0)
                assert is_harmless(shown(app))

    asyncio.run(walk())
    client.close()
