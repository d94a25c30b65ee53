"""Hostile strings in every field that shows text from outside: nothing is interpreted, nothing falls over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, get_args

import pytest
from console_world import console, shown, type_in, until
from pydantic import BaseModel
from recorded import FULL, NOW, PLAN, REPORT, Recorded
from textual.containers import VerticalScroll

from cloister.api import (
    Event,
    GpuStatus,
    PersonalFigures,
    PlanAdvice,
    PlanPart,
    PolicyCell,
    PolicyQuestion,
    PolicyTable,
    Problem,
    SinkStatus,
)
from cloister.console import proving, system_parts
from cloister.console.actions import PLACES
from cloister.console.approving import in_a_line
from cloister.console.asking_import import _listed as listed_problems
from cloister.console.asking_jobs import about_job
from cloister.console.asking_run import expected, no_plan
from cloister.console.asking_shred import lineage
from cloister.console.comparing import evaluation, side_by_side
from cloister.console.denial import told as denied
from cloister.console.picture import Picture
from cloister.console.pipeline import devices, queue
from cloister.console.reporting import told
from cloister.console.revealing import spelled
from cloister.console.screens.place import ListPlace
from cloister.console.weighing import whole
from cloister.console.widgets.frame import Words
from cloister.home import Home
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
SINK = SinkStatus(name="s", to="t", required=True, behind=1, sent=1, down_s=2.0, problem="p")
GPU = GpuStatus(number=0, index=0, name="g", problem="p", holders=["h"])
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
    """The document with that text in every field that could hold some, also in those that hold nothing yet."""
    if isinstance(value, BaseModel):
        changes = {
            name: _filled(getattr(value, name), field.annotation, text)
            for name, field in type(value).model_fields.items()
            if name not in STRUCTURE
        }
        return value.model_copy(update=changes)
    if isinstance(value, dict):
        return {key: poisoned(item, text) for key, item in value.items()} | {text[:2000]: text}
    if isinstance(value, list):
        return [poisoned(item, text) for item in value]
    return text if isinstance(value, str) else value


def _filled(value: Any, annotation: Any, text: str) -> Any:
    might_be = get_args(annotation)
    if value is None and str in might_be:
        return text
    if value is None and Problem in might_be:
        return Problem(title=text, status=500, code="error", detail=text, where=text, remedy=text)
    return poisoned(value, text)


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


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_said_of_policies_machines_and_proofs_is_text(text: str, tmp_path: Path) -> None:
    """Reasons of a denial, what the doctor found, who may do what, sinks, slots, backups, entries, settings; and what
    holds which device."""
    client = Recorded()
    home = Home(tmp_path)
    home.settings_file.write_text(text, encoding="utf-8", errors="surrogatepass")
    picture = Picture().with_read(
        {
            "status": poisoned(client.answers["status"], text).model_copy(
                update={"home": str(tmp_path), "sinks": [poisoned(SINK, text)], "gpus": [poisoned(GPU, text)]}
            ),
            "whoami": poisoned(client.answers["whoami"], text),
            "slots": tuple(poisoned(one, text) for one in client.answers["slots"]),
            "backups": tuple(poisoned(one, text) for one in client.answers["backups"]),
            "jobs": tuple(poisoned(one, text) for one in client.answers["jobs"]),
            "deployments": tuple(poisoned(one, text) for one in client.answers["deployments"]),
        },
        {"slots": text},
    )
    told_why = client.explain(PolicyQuestion(action="run.start"))
    rules = {"permits": told_why.forbids, "attributes": {"name": text}}
    answer = poisoned(told_why.model_copy(update=rules), text)
    findings = [{"state": "bad", "check": text, "finding": text, "remedy": text}]
    cell = PolicyCell(
        role=text, action=text, kind=text, classification=text, form=text, demand=text, policies=[text]
    )
    run = client.answers["runs"][0]
    full = FULL | {"verdict": {"sentences": [text]}, "notes": [text]}
    every = [
        denied(text, [answer], picture),
        system_parts.doctor(findings, None),
        system_parts.doctor(None, text),
        system_parts.policies(PolicyTable(digest=text, cells=[cell]), None),
        *(about(picture) for about in system_parts.ABOUT.values()),
        *(part for _, cells in system_parts.listed(picture, findings) for part in cells),
        proving.shown(poisoned(client.entries[0], text)),
        side_by_side(poisoned(run, text), run),
        evaluation(
            run.model_copy(update={"evaluation": {"tuned": {"loss": text}, "rows": text, "full": full}})
        ),
        whole(run.model_copy(update={"evaluation": {"full": full}})),
        lineage(poisoned(client.shred_plan(), text)),
        spelled(
            [{"row": 1, "side": text, "label": text, "text": text, "tools": text, "groups": {text: text}}]
        ),
        listed_problems([text, text]),
        *(part for line in (*devices(picture, None), *queue(picture)) for part in line.cells),
        *(about_job(job, picture) for job in picture.jobs),
        in_a_line(poisoned(client.answers["approvals"][0], text)),
    ]
    for shown_text in every:
        assert is_harmless(shown_text.plain) and len(shown_text) < 60_000


def test_what_a_worker_says_is_text_wherever_its_log_is_shown() -> None:
    client = Recorded()
    job = client.answers["jobs"][0].job_id
    client.stream += [
        Event(
            seq=100 + n,
            time=NOW,
            kind=kind,
            subject=job,
            data={"message": text, "state": text, "stage": text},
        )
        for n, text in enumerate(HOSTILE)
        for kind in ("job.notice", "job.state")
    ]
    client.answers["status"] = client.answers["status"].model_copy(update={"last_seq": 400})

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda _: len(app.history.lines(job)) == 2 * len(HOSTILE))
            await pilot.press("3", "enter")
            await until(app, lambda text: "training" in text)
            for _ in range(12):
                await pilot.press("pagedown")
                assert is_harmless(shown(app))
            assert app.is_running and app.place is not None
            assert "Log" in app.place.query_one("#more", Words).told

    asyncio.run(walk())
    client.close()


FORGED = [
    "x\n\nname       harmless\nclass      public\ndigest     0000",
    "\n".join(["padding"] * 5000 + ["Type harmless and Enter to approve just this:"]),
    "\n".join("x" * width + "signature  none needed" for width in range(60, 80)),
    "\n".join("." * width + "class      public" for width in range(60, 80)),
    "│ ╰──────────╯\n╭ Approve harmless ╮",
    "\n".join(HOSTILE),
]


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_an_approval_cannot_be_forged(text: str) -> None:
    """Whatever a request holds: its true name, class and digest are told once, first, in our words, and what was
    written by somebody stands behind a bar; the line that asks is ours alone."""
    client = Recorded()
    real = client.answers["approvals"][0]
    client.answers["approvals"] = [
        real.model_copy(update={"summary": [text, "second"], "diff": text, "reason": text, "name": "claims"})
    ]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, size=(80, 60), clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("4")
            await until(app, lambda text: "deployment.start" in text)
            await pilot.press("home", "w", "a")
            await until(app, lambda text: "Type claims and Enter" in text)
            seen: list[str] = [inner(line) for line in shown(app).split("\n") if "┃" in line][1:-4]
            scroll = app.screen.query_one(VerticalScroll)
            while scroll.scroll_offset.y < scroll.max_scroll_y:
                scroll.scroll_page_down(animate=False)
                await pilot.pause()
                screen = shown(app)
                assert is_harmless(screen)
                lines = [inner(line) for line in screen.split("\n") if "┃" in line]
                assert lines[0] == "Approve what somebody else asked for"
                assert lines[-4] == "Type claims and Enter to approve just this:"
                seen += [line for line in lines[1:-4] if line not in seen]
            ours = [line for line in seen if not line.startswith(("│ ", "│"))]
            told = [line.split("  ")[0].strip() for line in ours]
            for label in ("name", "class", "digest", "signature"):
                assert told.count(label) == 1
            assert not any("harmless" in line or "public" in line for line in ours)
            await type_in(pilot, "harmless")
            await pilot.press("enter")
            await until(app, lambda text: "that is not its name" in text)

    asyncio.run(walk())
    client.close()


def inner(line: str) -> str:
    """What stands within a dialog's border, without its scroll bar."""
    return line.split("┃")[1].rstrip("▁▂▃▄▅▆▇█ ").strip()


def test_a_refusal_is_text() -> None:
    """What errors hold goes the same way."""
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
