"""What was said above the keys: the newest action's word stands, and no failure of an older one is lost."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

import pytest
from console_world import console, type_in, until
from recorded import NOW, Recorded

from cloister.console.sayings import Sayings, listed
from cloister.console.watching import Watch
from cloister.errors import ApprovalNeeded, Conflict


@pytest.fixture(autouse=True)
def answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes late is told where these tests look for other words."""
    monkeypatch.setattr(Watch, "silent", lambda _: None)


class Slow(Recorded):
    """Revoking waits until it is let, and is refused then, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.let = Event()
        self.refuses: Exception | None = Conflict("the disk is full", remedy="Free 2 GiB, then revoke again.")

    def revoke_client(self, client_id: str) -> Any:
        self.let.wait()
        if self.refuses is not None:
            raise self.refuses
        return self.answers["clients"][0]


def by_keys(client: Slow, steps: Any) -> None:
    async def whole() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("6", "w")
            await until(app, lambda text: "claims-desk" in text and "Armed" in text)
            await pilot.press("x")
            await until(app, lambda text: "Revoke a key" in text)
            await type_in(pilot, "claims-desk")
            await pilot.press("enter")
            await until(app, lambda text: "Revoke a key" not in text)
            await steps(app, pilot)

    try:
        asyncio.run(whole())
    finally:
        client.let.set()
        client.close()


def test_a_late_failure_takes_no_newer_words_place_and_is_not_lost() -> None:
    client = Slow()

    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("w")
        await until(app, lambda text: "● Read-only." in text)
        client.let.set()
        await until(app, lambda text: "× M shows 1 earlier failure  ● Read-only." in text)
        await pilot.press("7")
        await until(app, lambda text: "× M shows 1 earlier failure\n" in text and "Read-only." not in text)
        await pilot.press("M")
        text = " ".join((await until(app, lambda text: "Messages" in text)).replace("│", "").split())
        assert "× revoke claims-desk: the disk is full. Free 2 GiB, then revoke again." in text
        assert text.index("disk is full") < text.index("● Read-only.") < text.index("▲ Armed")
        await pilot.press("escape")
        await until(app, lambda text: "Messages" not in text and "M shows" not in text)

    by_keys(client, steps)


def test_a_late_success_takes_no_newer_words_place_either() -> None:
    client = Slow()
    client.refuses = None

    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("w")
        await until(app, lambda text: "● Read-only." in text)
        client.let.set()
        await until(app, lambda _: any("no longer works" in one.text for one in app.sayings.kept))
        await until(app, lambda text: "● Read-only." in text and "M shows" not in text)

    by_keys(client, steps)


def test_an_answer_stands_where_nothing_newer_was_said() -> None:
    client = Slow()

    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("7")
        client.let.set()
        await until(app, lambda text: "× revoke claims-desk: the disk is full." in text)

    by_keys(client, steps)


def test_what_waits_for_somebody_says_where_and_what_then_in_three_lines() -> None:
    client = Slow()
    client.refuses = ApprovalNeeded(
        "to classify a dataset less strictly (letters) takes the approval of somebody else",
        where="ap-aaaaaaaaaaaa",
        remedy="An approver: `cloister approval show ap-aaaaaaaaaaaa`. Then give this command again.",
        values={"approval": "ap-aaaaaaaaaaaa"},
    )

    async def steps(app: Any, pilot: Any) -> None:
        client.let.set()
        text = await until(app, lambda text: "then do it again." in text)
        told = " ".join(text.split())
        assert "▲ revoke claims-desk: to classify" in told and "4, then a" in told
        assert "`cloister approval give ap-aaaaaaaaaaaa`" in told and "Then give" not in told

    by_keys(client, steps)


def sayings() -> Sayings:
    made = Sayings(lambda: NOW)
    made.begin()
    made.begin()
    return made


def test_a_failure_that_an_answer_to_something_else_hides_is_counted() -> None:
    said = sayings()
    said.take("one", "bad", 1, failure=True)
    assert said.line().plain == " × one"
    said.take("two", "good", 2, failure=False)
    assert said.line().plain == " × M shows 1 earlier failure  ● two"
    said.take("one again", "bad", 1, failure=True)
    assert said.line().plain == " × M shows 2 earlier failures  ● two"
    assert [line.partition("  ")[2] for line in listed(said.kept).plain.splitlines()] == [
        "× one again",
        "● two",
        "× one",
    ]
    said.read()
    assert said.line().plain == "" and len(said.kept) == 3


def test_a_failure_that_was_read_before_the_next_action_is_not_counted() -> None:
    said = sayings()
    said.take("two", "bad", 2, failure=True)
    said.begin()
    said.take("three", "good", 3, failure=False)
    assert said.line().plain == " ● three"


def test_what_no_action_came_to_hides_no_failure_either() -> None:
    said = sayings()
    said.take("two", "bad", 2, failure=True)
    said.take("the authority answers again", "good", None, failure=False)
    assert said.line().plain == " × M shows 1 earlier failure  ● the authority answers again"
    said.take("two, too", "good", 2, failure=False)
    assert said.line().plain == " × M shows 1 earlier failure  ● two, too"


def test_only_so_much_is_kept() -> None:
    said = sayings()
    for number in range(500):
        said.take(f"{number}", "info", 2, failure=False)
    assert [one.text for one in said.kept] == [f"{number}" for number in range(300, 500)]
