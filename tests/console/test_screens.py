"""How every screen looks, over recorded documents, in its sizes and states: compared with kept pictures.

`pytest tests/console/test_screens.py --snapshot-update` keeps new ones; look at what changed.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from console_world import NARROW, WIDE, console, until
from pictured import ScreenSnapshot, pictured
from recorded import NOW, Recorded
from syrupy.assertion import SnapshotAssertion
from textual.pilot import Pilot

from cloister.api import LedgerStatus
from cloister.console.actions import PLACES
from cloister.console.app import ConsoleApp


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def picture(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(ScreenSnapshot)


READ = {
    "overview": "4 merge",
    "data": "letters",
    "runs": "second",
    "models": "small",
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
            await pilot.pause()
            shot = pictured(app)
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
        for key in keys:
            await pilot.press(key)
            await pilot.pause()

    return walk


def look_around(size: tuple[int, int], *keys: str) -> dict[str, str]:
    """The picture of every screen, in one walk; `keys` are pressed on each."""
    shots: dict[str, str] = {}

    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        for place in PLACES:
            await to(place)(app, pilot)
            if place == "serving":
                await until(app, lambda text: "0.5" in text)
            await pilot.press(*keys)
            await pilot.pause()
            shots[place] = pictured(app)

    look(size, walk)
    return shots


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "120x40"])
def test_every_screen_looks_as_it_did(size: tuple[int, int], picture: SnapshotAssertion) -> None:
    for place, shot in look_around(size).items():
        assert shot == picture(name=place)


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
    return client


@pytest.mark.parametrize("state", ["locked", "ledger-refused", "no-sandbox", "empty", "no-vault", "error"])
def test_a_state_looks_as_it_did(state: str, picture: SnapshotAssertion) -> None:
    place = "serving" if state == "error" else "overview"
    wanted = {"empty": "Welcome", "no-vault": "Welcome"}.get(state)
    assert look(NARROW, to(place, wanted=wanted), changed(state)) == picture


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
        ("models", ("enter",)),
        ("data", ("o",)),
        ("data", ("v", "tab", "enter")),
    ],
    ids=["read-only", "armed", "form", "shred", "palette", "help", "approval", "report", "reveal"],
)
def test_a_dialog_looks_as_it_did(place: str, keys: tuple[str, ...], picture: SnapshotAssertion) -> None:
    async def walk(app: ConsoleApp, pilot: Pilot[None]) -> None:
        await to(place, *keys)(app, pilot)
        if keys == ("w", "D"):
            await until(app, lambda text: "cannot be undone" in text)
        wanted = {("w", "n"): "once merged", ("o",): "Report of", ("v", "tab", "enter"): "ledger"}.get(
            keys, ""
        )
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
