"""Serving and Clients: requests, latency, tokens and cache of what is served; what each key was used for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from console_world import console, until
from recorded import NOW, Recorded

from cloister.api import EngineLoad, LedgerMatches
from cloister.console.traffic import READ, told_load, told_use, used
from cloister.errors import Unavailable

WIDER = (160, 40)
"""Where what is known of a line has room beside it for its longest words."""


def test_an_engines_work_and_cache_stand_beside_what_it_answered() -> None:
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, WIDER, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("5")
            text = await until(app, lambda text: "25%" in text and "0.5" in text)
            for wanted in (
                "2 at work, 0 wait",
                "75% of 8,000 prompt tokens",
                "a second",
                "95 in 100",
                "tokens/s",
            ):
                assert wanted in text, wanted
            client.answers["engine_loads"] = []
            app.place._count()
            await until(app, lambda text: "25%" not in text and "0.5" in text)

    asyncio.run(walk())
    client.close()


def test_an_engine_that_says_little_is_told_as_far_as_it_goes() -> None:
    assert told_load(None).plain == ""
    told = told_load(EngineLoad(deployment_id="dp-1", cache_used=0.5)).plain
    assert "50%" in told and "at work" not in told and "prompt tokens" not in told
    assert "prompt tokens" not in told_load(EngineLoad(deployment_id="dp-1", cache_asked=0)).plain


def test_what_a_client_asked_is_counted_by_its_id() -> None:
    entries = Recorded().search_ledger(ledger="gateway").entries
    [(client, use)] = used(entries).items()
    assert client == "cl-dddddddddddd"
    assert (use.requests, use.prompt_tokens, use.completion_tokens, use.failed) == (150, 30_000, 6_000, 1)
    told = told_use(use, NOW, looked_back=None).plain
    assert "150\n" in told and "2s ago" in told and "30,000 in, 6,000 out" in told
    assert "none since " in told_use(None, NOW, looked_back=NOW).plain


def test_the_use_of_each_key_stands_in_its_line_and_follows() -> None:
    client: Any = Recorded()
    answered = client.search_ledger(ledger="gateway").entries
    asked: list[int] = []

    def search(limit: int = 50, **wanted: Any) -> LedgerMatches:
        asked.append(limit)
        return LedgerMatches(entries=answered, more=True, size=300, indexed=True)

    client.search_ledger = search

    async def walk() -> None:
        async with console(lambda: client, WIDER, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("6")
            text = await until(app, lambda text: "30,000 in, 6,000 out" in text)
            (line,) = [line for line in text.splitlines() if line.startswith(" claims-desk")]
            assert " 150 " in line and " 2s " in line
            (line,) = [line for line in text.splitlines() if line.startswith(" old-portal")]
            assert " 150 " not in line and "never" not in line, "a key that was ended does not end by itself"
            assert "150 since 0" in text, "older requests were not looked at, and it says so"
            await pilot.press("down")
            await until(app, lambda text: "none since 0" in text)

    asyncio.run(walk())
    client.close()
    assert set(asked) == {READ}


def test_who_may_not_read_the_ledger_is_told_so_and_asks_for_nothing() -> None:
    client: Any = Recorded()
    who = client.answers["whoami"]
    client.answers["whoami"] = who.model_copy(
        update={"actions": [action for action in who.actions if action != "ledger.read"]}
    )

    asked: list[Any] = []
    client.search_ledger = lambda *_, **wanted: asked.append(wanted)

    async def walk() -> None:
        async with console(lambda: client, WIDER, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("6")
            await until(app, lambda text: "do not let your roles read the ledger" in text)
            await pilot.press("5")
            await until(app, lambda text: "25%" in text and "none in the last 5 minutes" in text)

    asyncio.run(walk())
    client.close()
    assert asked == []


def test_engines_that_cannot_be_asked_leave_the_screen_as_it_is() -> None:
    client: Any = Recorded()

    def away() -> Any:
        raise Unavailable("the authority does not answer")

    client.engine_loads = away

    async def walk() -> None:
        async with console(lambda: client, WIDER, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("5")
            text = await until(app, lambda text: "0.5" in text and "95 in 100" in text)
            assert "at work" not in text and "cache in use" not in text

    asyncio.run(walk())
    client.close()


@pytest.mark.parametrize(
    ("place", "key", "words"),
    [
        ("6", "x", "Its application is refused at once."),
        ("6", "o", "The old key ends at once"),
        ("5", "x", "Its clients get errors from then on."),
        ("5", "d", "New requests are refused at once"),
    ],
)
def test_what_comes_of_an_end_is_in_sight_at_eighty_columns(place: str, key: str, words: str) -> None:
    """It stands before all that is known of the thing, which may be longer than the dialog is high."""
    client: Any = Recorded()

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press(place, "w")
            await until(app, lambda text: "25%" in text if place == "5" else " 150 " in text)
            await pilot.press(key)
            await until(app, lambda text: words in text and "Esc: nothing is changed" in text)

    asyncio.run(walk())
    client.close()
