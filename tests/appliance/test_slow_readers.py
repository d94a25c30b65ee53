"""Readers of the stream of events that are slow, or late: they slow nobody, are kept no memory, and are told what they
missed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
from authority_world import PEER, World, at_socket, moment

from cloister.api import STREAM_GAP, STREAM_RESET, Event, JobState, ObjectKind, ServeRequest
from cloister.appliance import engine_lines, store
from cloister.appliance.engine_lines import BURST, EVERY_S, MAX_CHARACTERS, EngineLines
from cloister.client import Client
from cloister.launcher.processes import resident_bytes

EVENTS = 6_000
PAYLOAD = "x" * 8_000


@contextmanager
def reader(here: World, after: int) -> Iterator[socket.socket]:
    """A connection that has asked for the stream and reads nothing yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(str(here.home.authority_socket))
        connection.sendall(f"GET /v1/events?after={after} HTTP/1.1\r\nHost: authority\r\n\r\n".encode())
        yield connection


def read(connection: socket.socket, until: int) -> Iterator[Event]:
    """What has been sent, event by event, up to that number."""
    connection.settimeout(120)
    data = b""
    while True:
        data += connection.recv(1 << 20)
        *lines, data = data.split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                event = Event.model_validate_json(line[6:])
                yield event
                if event.seq >= until:
                    return


@asynccontextmanager
async def asking(here: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(here.home.authority_socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://authority", timeout=120) as client:
        client.headers["connection"] = (
            "close"  # this loop may stand still until a connection that idles is let go of
        )
        yield client


def resident() -> int:
    """Bytes of memory that this process, and in it the authority, holds."""
    return resident_bytes([os.getpid()])


def many(here: World, count: int) -> None:
    """So many events, as many to a commit as a busy moment has."""
    for _ in range(count // 500):
        with here.authority.state.change() as change:
            for number in range(500):
                change.event("test.said", None, number=number, text=PAYLOAD)


@moment
async def test_a_reader_that_reads_nothing_slows_nobody_and_loses_nothing(here: World) -> None:
    """Fifty megabytes of events: what is not read is in no memory; what is read later is all of them, once."""
    (here.home.root / "lines").write_text("1000")
    here.go.touch()
    async with at_socket(here), asking(here) as client:
        start = here.authority.state.last_seq()
        fast: list[int] = []

        def follow() -> None:
            with Client(here.home.authority_socket) as following:
                for event in following.events(start):
                    fast.append(event.seq)
                    if event.kind == "test.end":
                        return

        following = threading.Thread(target=follow, daemon=True)
        with reader(here, start) as slow:
            following.start()
            await asyncio.sleep(0.1)
            before = grown = resident()
            job_id = await here.run()  # a real sandbox says a thousand things
            answers = []
            for _ in range(EVENTS // 1000):
                many(here, 1000)
                answers.append((await client.get("/v1/status")).status_code)
                grown = max(grown, resident())
            await here.reaches(job_id, JobState.DONE)
            with here.authority.state.change() as change:
                change.event("test.end")
            grown = (max(grown, resident()) - before) >> 20
            last = here.authority.state.last_seq()
            assert set(answers) == {200}
            assert last - start > EVENTS + 1000
            await asyncio.to_thread(following.join, 300)
            assert fast == list(range(start + 1, last + 1))
            late = await asyncio.to_thread(lambda: [event.seq for event in read(slow, last)])
            assert late == list(range(start + 1, last + 1))
        print(f"slow reader: events={last - start} memory grew by {grown} MiB")
        assert grown < 48, f"{grown} MiB more: what nobody reads is held"


@moment
async def test_one_that_comes_after_the_kept_ones_is_told_so_first(here: World) -> None:
    kept, store.KEPT_EVENTS, every, store.PRUNE_EVERY = store.KEPT_EVENTS, 100, store.PRUNE_EVERY, 1
    try:
        async with at_socket(here):
            many(here, 500)
            with reader(here, 3) as behind, reader(here, here.authority.state.last_seq()) as slow:
                await asyncio.to_thread(slow.recv, 64)  # it follows, and then reads no more
                many(here, 3000)
                last = here.authority.state.last_seq()
                first = last - 100 + 1
                for connection, known in ((behind, 3), (slow, None)):
                    events = await asyncio.to_thread(lambda c=connection: list(read(c, last)))
                    gaps = [event for event in events if event.kind == STREAM_GAP]
                    # Nothing in between is missing without a word: each is there, or in what was told as gone.
                    told = []
                    for event in events:
                        gone = event.data if event.kind == STREAM_GAP else {"from": event.seq}
                        told += range(gone["from"], event.seq + 1)
                    assert told == list(range(told[0], last + 1))
                    assert gaps and gaps[-1].data == {"from": gaps[-1].data["from"], "to": first - 1}
                    if known is not None:
                        assert told[0] == known + 1

            def of(after: int) -> Event:
                with Client(here.home.authority_socket) as client:
                    return next(client.events(after))

            said = await asyncio.to_thread(of, 0)
            assert (said.kind, said.seq, said.data) == (STREAM_GAP, first - 1, {"from": 1, "to": first - 1})
            assert (await asyncio.to_thread(of, first - 1)).seq == first
            ahead = await asyncio.to_thread(of, last + 1000)
            assert (ahead.kind, ahead.seq) == (STREAM_RESET, last)
            assert ahead.data == {"from": last + 1000, "to": last}
    finally:
        store.KEPT_EVENTS, store.PRUNE_EVERY = kept, every


@moment
async def test_who_watches_a_job_reads_it_anew_after_a_gap(here: World) -> None:
    """All that the job says, its end too, is gone before the watcher reads on."""
    kept, store.KEPT_EVENTS, every, store.PRUNE_EVERY = store.KEPT_EVENTS, 10, store.PRUNE_EVERY, 1
    try:
        async with at_socket(here):
            job_id = await here.run()
            await here.runs(job_id)
            seen: list[str] = []
            first, go_on = threading.Event(), threading.Event()

            def watch() -> None:
                with Client(here.home.authority_socket) as client:
                    for job in client.watch_job(job_id):
                        seen.append(job.state)
                        if len(seen) == 2:  # it has taken the stream's number, and follows from there
                            first.set()
                            go_on.wait(120)

            watching = threading.Thread(target=watch, daemon=True)
            watching.start()
            await asyncio.to_thread(first.wait, 120)
            here.go.touch()
            await here.reaches(job_id, JobState.DONE)
            many(here, 500)
            assert all(event.subject != job_id for event in here.authority.state.events_after(0))
            go_on.set()
            await asyncio.to_thread(watching.join, 120)
            assert seen[-1] == JobState.DONE and not watching.is_alive()
    finally:
        store.KEPT_EVENTS, store.PRUNE_EVERY = kept, every


ENGINE = """
import json, sys, time
json.load(sys.stdin)
def say(**event):
    print(json.dumps(event), flush=True)
say(event="progress", stage="loading", done=1, total=2)
for number in range(200):
    say(event="notice", level="warning", message=f"vLLM: line {number} " + "y" * 900)
say(event="notice", level="warning", message="z" * 5000)
print("what a program prints without a form: 7f3a9c", flush=True)
say(event="progress", stage="ready", done=1, total=1)
time.sleep(600)
"""


@moment
async def test_what_an_engine_says_is_in_the_stream_within_bounds(here: World) -> None:
    (here.home.root / "program.py").write_text(ENGINE)
    here.stored(ObjectKind.MODEL, "merged")

    def said(kind: str) -> list[Event]:
        events = here.authority.state.events_after(0, 1000)
        return [one for one in events if (one.kind, one.subject) == (kind, deployment.deployment_id)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_lines, "EVERY_S", 3600.0)  # however long it takes to say them
        deployment = await here.authority.serve(PEER, ServeRequest(name="desk", model="merged"))
        await here.until(lambda: len(said("deployment.progress")) == 2)
    notices = said("deployment.notice")
    assert len(notices) == BURST
    assert [one.data["message"].split(" y")[0] for one in notices[:2]] == ["vLLM: line 0", "vLLM: line 1"]
    assert all(len(one.data["message"]) <= MAX_CHARACTERS for one in notices)
    assert "7f3a9c" not in json.dumps([one.data for one in here.authority.state.events_after(0, 1000)])


def test_what_is_held_back_is_counted() -> None:
    now = 0.0
    lines = EngineLines(lambda: now)
    assert [lines.passes() for _ in range(BURST + 5)] == [0] * BURST + [None] * 5
    now += EVERY_S
    assert [lines.passes(), lines.passes()] == [5, None]
    now += 1000 * EVERY_S
    assert [lines.passes() for _ in range(BURST + 1)] == [1] + [0] * (BURST - 1) + [None]
