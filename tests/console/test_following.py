"""Following the authority: keys between events, events that were lost, answers that nobody expects, two who look."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from console_world import WIDE, console, shown, until
from recorded import LIVE, NOW, Recorded, stored

from cloister.api import STREAM_GAP, STREAM_RESET, Event, Status
from cloister.client.connection import read_answer
from cloister.console.feed import Feed
from cloister.errors import CloisterError

SECRET = "canary-9d1f"
BACKLOG = 40_000


def notices(first: int, count: int) -> list[Event]:
    return [
        Event(seq=seq, time=NOW, kind="job.notice", subject=LIVE.job_id, data={"message": f"line {seq}"})
        for seq in range(first, first + count)
    ]


class Telling(Recorded):
    """Its stream goes on with whatever is put into `more`."""

    def __init__(self) -> None:
        super().__init__()
        self.more: list[Event] = []
        self.asked: list[int] = []
        self._more = threading.Event()

    def tell(self, *events: Event) -> None:
        self.more += events
        self._more.set()

    def events(self, after: int = 0) -> Iterator[Event]:
        self.asked.append(after)
        yield from (event for event in self.stream if event.seq > after)
        while not self._ended.is_set():
            self._more.wait(0.05)
            self._more.clear()
            while self.more:
                yield self.more.pop(0)


def test_keys_come_between_the_events_of_a_backlog() -> None:
    """A key that is pressed while tens of thousands of lines wait does not wait for the last of them."""
    client = Telling()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            app.feed._inbox.extend(notices(100, BACKLOG))
            app._take_news()
            await pilot.press("question_mark")
            await until(app, lambda text: "Help: overview" in text)
            assert len(app.feed._inbox) > BACKLOG // 2, "the key waited for what was there before it"

    asyncio.run(walk())
    client.close()


@pytest.mark.parametrize("kind", [STREAM_GAP, STREAM_RESET])
def test_what_is_shown_is_read_anew_where_events_are_lost(kind: str) -> None:
    """Also after a backup was brought back, whose numbers are lower: what comes then is news again."""
    client = Telling()
    client.answers["status"] = client.answers["status"].model_copy(update={"last_seq": 500})
    to = 500 if kind == STREAM_GAP else 30

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            client.answers["datasets"] = [stored("dataset", "ds", "found-again", classification="internal")]
            client.tell(Event(seq=to, time=NOW, kind=kind, data={"from": 100, "to": to}))
            await until(app, lambda text: "found-again" in text and "letters" not in text)
            client.answers["datasets"] = []
            client.tell(Event(seq=to + 1, time=NOW, kind="dataset.imported", subject="ds-1"))
            await until(app, lambda text: "No data yet" in text)
            assert app.feed._seen == to + 1 and not app.feed.whole

    asyncio.run(walk())
    client.close()


def test_a_stream_is_followed_on_from_where_another_history_stands() -> None:
    """The next connection asks from there, not from the higher number of before."""
    client = Telling()
    client.answers["status"] = client.answers["status"].model_copy(update={"last_seq": 900})
    feed = Feed(lambda: client, lambda _: None)  # type: ignore[arg-type, return-value]
    feed._seen = feed.known = 900
    feed._put(Event(seq=40, time=NOW, kind=STREAM_RESET, data={"from": 900, "to": 40}))
    feed._put(Event(seq=41, time=NOW, kind="run.created"))
    assert (feed._seen, feed.known) == (41, 40)
    assert [feed.is_news(event) for event in feed.take(9)] == [True, True]
    client.close()


def test_a_fault_in_a_thread_is_told_by_its_place_and_nothing_waits_for_it() -> None:
    """Of reading, of following and of what a key asked for: each goes on, and no value is shown."""
    client = Telling()
    broken = [True]

    def fails(*_: object) -> Any:
        raise KeyError(SECRET)

    def datasets() -> Any:
        return fails() if broken[0] else client.answers["datasets"]

    client.datasets = datasets  # type: ignore[attr-defined]
    client.shred_plan = fails  # type: ignore[method-assign]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            told = await until(app, lambda text: "KeyError at" in text)
            assert SECRET not in told
            broken[0] = False
            await pilot.press("2", "r")
            await until(app, lambda text: "letters" in text)
            await pilot.press("w", "D")
            told = await until(app, lambda text: "shred takes: the console failed: KeyError at" in text)
            assert SECRET not in told and SECRET not in shown(app)

    asyncio.run(walk())
    client.close()


def test_an_answer_of_another_version_is_told_without_its_values() -> None:
    with pytest.raises(CloisterError, match="another version") as told:
        read_answer(Status, f'{{"version": "{SECRET}", "home": 3}}', "/v1/status")
    assert SECRET not in str(told.value) and told.value.where == "/v1/status"
    assert told.value.__suppress_context__, "what was not understood is told with no traceback either"


def test_one_shelf_that_is_not_understood_leaves_the_others() -> None:
    client = Recorded()

    def strange() -> Any:
        return read_answer(Status, "{}", "/v1/datasets")

    client.datasets = strange  # type: ignore[attr-defined]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "Not shown:" in text and "is not understood" in text)
            await pilot.press("3")
            await until(app, lambda text: "second" in text)

    asyncio.run(walk())
    client.close()


def test_a_screen_that_comes_to_the_front_while_the_console_ends_is_no_fault() -> None:
    """Its widgets may be gone already: keys were still on their way when it was left."""
    client = Recorded()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("7")
            place = app.place
            assert place is not None and place.scope == "audit"
            app.exit()
            await place.query("*").remove()
            app.entered(place)
            app.say("left")
            place.on_screen_resume()
        assert app.return_code == 0

    asyncio.run(walk())
    client.close()
