"""How every screen looks, over recorded documents, in its sizes and states: compared with kept pictures.

`pytest tests/console/test_screens.py --snapshot-update` keeps new ones; look at what changed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import pytest
from console_world import NARROW, WIDE, console, still, until
from pictured import ScreenSnapshot, stood
from recorded import NOW, Recorded
from syrupy.assertion import SnapshotAssertion
from test_overview_screen import with_gpus
from textual.pilot import Pilot

from cloister.api import LedgerStatus, Problem
from cloister.console.actions import PLACES
from cloister.console.app import ConsoleApp
from cloister.console.watching import Watch
from cloister.errors import Denied


@pytest.fixture(autouse=True)
def answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes late is told: a picture would show how slow the machine is."""
    monkeypatch.setattr(Watch, "silent", lambda _: None)


@pytest.fixture
def picture(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(ScreenSnapshot)


READ = {
    "overview": "→ merge",
    "data": "letters",
    "runs": "second",
    "models": "deployment.start",
    "serving": "claims",
    "clients": "claims-desk",
    "audit": "client.issue",
    "system": "unlock slots",
}
"""What each screen shows once it was read."""


def look(
    size: tuple[int, int],
    walk: Callable[[ConsoleApp, Pilot[None]], Awaitable[object]],
    client: Recorded | None = None,
) -> str:
    """The picture after that walk."""
    recorded = client or Recorded()

    async def whole() -> str:
        make: Any = lambda: recorded  # noqa: E731
        async with console(make, size=size, clock=lambda: NOW) as (app, pilot):
            await walk(app, pilot)
            shot = await stood(app, pilot)
        recorded.close()
        return shot

    return asyncio.run(whole())


def to(
    place: str, *keys: str, wanted: str | None = None
) -> Callable[[ConsoleApp, Pilot[None]], Awaitable[object]]:
    """Go to a screen, wait for what it shows, and press keys there."""

    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        await until(app, lambda text: "alert" in text)
        await pilot.press(str(PLACES.index(place) + 1))
        await until(app, lambda text: (READ[place] if wanted is None else wanted) in text)
        await until(app, lambda _: len(app.history.series("jb-bbbbbbbbbbbb", "loss")) == 24)
        await still(app, pilot)
        for key in keys:
            await pilot.press(key)
            await still(app, pilot)

    return walk


def look_around(size: tuple[int, int], *keys: str, client: Recorded | None = None) -> dict[str, str]:
    """The picture of every screen, in one walk; `keys` are pressed on each."""
    shots: dict[str, str] = {}

    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        for place in PLACES:
            await to(place)(app, pilot)
            if place == "serving":
                await until(app, lambda text: "0.5" in text and "25%" in text)
            if place == "clients":
                await until(app, lambda text: " 150 " in text)
            await pilot.press(*keys)
            shots[place] = await stood(app, pilot)

    look(size, walk, client)
    return shots


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "120x40"])
def test_every_screen_looks_as_it_did(size: tuple[int, int], picture: SnapshotAssertion) -> None:
    for place, shot in look_around(size).items():
        assert shot == picture(name=place)
        assert place == "overview" or "…│" not in shot, "where there is room beside them, no line is cut"


def test_every_screen_says_the_same_without_colour(
    picture: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for place, shot in look_around(NARROW).items():
        styles = shot.partition("-" * NARROW[0])[2]
        assert not re.search("red|green|yellow|cyan|black|white|#", styles)
        assert shot == picture(name=place)


def test_every_opened_line_looks_as_it_did(picture: SnapshotAssertion) -> None:
    for place, shot in look_around(NARROW, "enter").items():
        if place != "overview":  # its first line is an alert; stages lead elsewhere
            assert shot == picture(name=place)


def changed(state: str) -> Recorded:
    """A recording in one of its states."""
    client = Recorded()
    status = client.answers["status"]
    if state == "locked":
        client.answers["status"] = status.model_copy(update={"locked": True})
    elif state == "ledger-refused":
        failed: LedgerStatus = status.ledger.model_copy(update={"failure": "no space left"})
        warning = "the ledger refuses entries: no space left"
        client.answers["status"] = status.model_copy(update={"ledger": failed, "warnings": [warning]})
    elif state == "no-sandbox":
        client.answers["status"] = status.model_copy(update={"sandbox": "none"})
    elif state == "empty":
        for name in (
            "alerts",
            "datasets",
            "bases",
            "models",
            "runs",
            "jobs",
            "deployments",
            "clients",
            "approvals",
        ):
            client.answers[name] = []
    elif state == "no-vault":
        client = changed("empty")
        client.answers["status"] = status.model_copy(update={"initialised": False, "locked": True})
    elif state == "error":
        broken = client.answers["deployments"][0].model_copy(update={"state": "failed"})
        client.answers["deployments"] = [broken]
    elif state == "failed-run":
        problem = Problem(
            title="Out of space",
            status=507,
            code="out-of-space",
            detail="the disk of the home is full",
            remedy="Free 2 GiB, then resume the run.",
        )
        first, second, third = client.answers["runs"]
        failed_job = second.train_job.model_copy(update={"state": "failed", "error": problem})
        client.answers["runs"] = [first, second.model_copy(update={"train_job": failed_job}), third]
        client.answers["jobs"] = [failed_job, client.answers["jobs"][1]]
    elif state == "gpus":
        client = with_gpus()
    elif state == "denied":
        who = client.answers["whoami"]
        client.answers["whoami"] = who.model_copy(update={"actions": ["appliance.status", "run.list"]})
        client.clients = denied  # type: ignore[attr-defined]
    return client


def denied() -> Any:
    raise Denied("tom (viewer) may not list these", remedy="The role operator may.")


PLACE_OF = {"error": "serving", "failed-run": "runs", "denied": "clients"}
WANTED = {"empty": "Welcome", "no-vault": "Welcome", "gpus": "GPU 3", "denied": "Not shown"}
STATES = (
    "locked",
    "ledger-refused",
    "no-sandbox",
    "empty",
    "no-vault",
    "error",
    "failed-run",
    "gpus",
    "denied",
)


@pytest.mark.parametrize("state", STATES)
def test_a_state_looks_as_it_did(state: str, picture: SnapshotAssertion) -> None:
    place = PLACE_OF.get(state, "overview")
    keys = ("home", "down", "enter") if state == "failed-run" else ()

    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        await to(place, *keys, wanted=WANTED.get(state))(app, pilot)
        if state == "failed-run":  # its whole curve, asked for where the cursor rests
            await until(app, lambda text: " 430" in text)

    assert look(NARROW, walk, changed(state)) == picture


def test_a_ledger_that_may_not_be_read_says_so(picture: SnapshotAssertion) -> None:
    assert look(NARROW, to("audit", wanted="do not let your roles read"), changed("denied")) == picture


@cache
def usual() -> dict[str, str]:
    """Every screen as it is where nothing is wrong."""
    return look_around(NARROW)


@pytest.mark.parametrize("state", ["locked", "ledger-refused", "no-sandbox"])
def test_a_state_is_in_sight_on_every_screen_and_hides_nothing(state: str) -> None:
    """It looks different in the line at the top, in the keys, and on the Overview, which says more of it."""
    words = {"locked": "▲ LOCKED", "ledger-refused": "× LEDGER REFUSES", "no-sandbox": "× NO SANDBOX"}
    for place, shot in look_around(NARROW, client=changed(state)).items():
        lines, before = (text.partition("-" * NARROW[0])[0].splitlines() for text in (shot, usual()[place]))
        assert words[state] in lines[0] and words[state] not in before[0]
        if place == "overview":
            table = before[: next(row for row, line in enumerate(before) if line.startswith("─"))]
            assert set(table[1:]) <= set(lines)
        else:
            assert lines[1:-2] == before[1:-2], place


def test_an_authority_that_was_never_there_is_waited_for_in_words(picture: SnapshotAssertion) -> None:
    client = Recorded()
    client.away = True

    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        await until(app, lambda text: "AUTHORITY AWAY" in text and "Asking again by itself" in text)

    assert look(NARROW, walk, client) == picture


@pytest.mark.parametrize("place", [place for place in PLACES if place not in ("overview", "audit", "system")])
def test_an_empty_screen_says_what_to_do(place: str, picture: SnapshotAssertion) -> None:
    assert (
        look(NARROW, to(place, wanted="yet" if place != "serving" else "Nothing"), changed("empty"))
        == picture
    )


def test_an_authority_that_is_away_is_said_over_what_was_known(picture: SnapshotAssertion) -> None:
    client = Recorded()

    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        await to("runs")(app, pilot)
        client.away = True
        client.close()
        await pilot.press("r")
        await until(app, lambda text: "AUTHORITY AWAY" in text and "Asking again by itself" in text)

    assert look(NARROW, walk, client) == picture


@pytest.mark.parametrize(
    ("place", "keys"),
    [
        ("runs", ("n",)),
        ("runs", ("w",)),
        ("runs", ("w", "n")),
        ("data", ("w", "D")),
        ("overview", ("colon",)),
        ("clients", ("question_mark",)),
        ("models", ("w", "home", "a")),
        ("models", ("home", "down", "down", "down", "enter")),
        ("data", ("o",)),
        ("data", ("v", "tab", "enter")),
        ("data", ("w", "c", "enter")),
    ],
    ids=[
        "read-only",
        "armed",
        "form",
        "shred",
        "palette",
        "help",
        "approval",
        "model",
        "report",
        "reveal",
        "choices",
    ],
)
def test_a_dialog_looks_as_it_did(place: str, keys: tuple[str, ...], picture: SnapshotAssertion) -> None:
    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        await to(place, *keys)(app, pilot)
        if keys == ("w", "D"):
            await until(app, lambda text: "cannot be undone" in text)
        wanted = {
            ("w", "n"): "tokens, counted",
            ("w", "home", "a"): "Type claims",
            ("o",): "Report of",
            ("v", "tab", "enter"): "ledger",
        }.get(keys, "")
        await until(app, lambda text: wanted in text)

    assert look(NARROW, walk) == picture


def test_what_policy_denies_is_explained(picture: SnapshotAssertion) -> None:
    client = Recorded()
    who = client.answers["whoami"]
    client.answers["whoami"] = who.model_copy(
        update={"actions": [action for action in who.actions if action != "client.revoke"]}
    )

    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        await to("clients", "x")(app, pilot)
        await until(app, lambda text: "own-duty" in text)

    assert look(NARROW, walk, client) == picture
