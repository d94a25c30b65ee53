"""What one account may ask of the socket: sizes, rates and streams; and the document of what can be asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from tests.conftest import Appliance

from cloister import embedded
from cloister.appliance.bounds import Bounds
from cloister.appliance.openapi import document
from cloister.appliance.peer import SCOPE_KEY, Peer
from cloister.client import Client
from cloister.home import Home
from cloister.policy import ApiSettings


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


class World:
    """The bounds around an application that answers at once, or streams while its gate is closed."""

    def __init__(self, **settings: float) -> None:
        self.now = 0.0
        self.flowing = 0
        self.gate = asyncio.Event()
        self.bounds = Bounds(
            self._answer,
            ApiSettings.model_validate(settings),
            lambda error: PlainTextResponse(error.message, error.status),
            clock=lambda: self.now,
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":

            async def lines():  # type: ignore[no-untyped-def]
                self.flowing += 1
                yield b"data: 1\n\n"
                await self.gate.wait()

            await StreamingResponse(lines(), media_type="text/event-stream")(scope, receive, send)
        else:
            await PlainTextResponse("ok")(scope, receive, send)

    async def ask(self, uid: int = 7, path: str = "/", headers: tuple[tuple[bytes, bytes], ...] = ()) -> int:
        seen: list[int] = []

        async def send(message):  # type: ignore[no-untyped-def]
            if message["type"] == "http.response.start":
                seen.append(message["status"])

        async def receive():  # type: ignore[no-untyped-def]
            await asyncio.Event().wait()

        scope = {
            "type": "http",
            "path": path,
            "method": "GET",
            "headers": list(headers),
            "asgi": {"spec_version": "2.4"},
            "extensions": {SCOPE_KEY: Peer(1, uid, uid)},
        }
        await self.bounds(scope, receive, send)
        assert len(seen) == 1
        return seen[0]


@in_a_loop
async def test_a_burst_passes_then_the_rate_holds_for_that_account_alone() -> None:
    world = World(requests_per_s=10, burst=20)
    assert [await world.ask() for _ in range(20)] == [200] * 20
    assert await world.ask() == 429
    assert await world.ask(uid=8) == 200
    world.now += 0.1
    assert [await world.ask(), await world.ask()] == [200, 429]
    world.now += 3600
    assert [await world.ask() for _ in range(21)] == [200] * 20 + [429]


@in_a_loop
async def test_streams_are_counted_while_they_flow() -> None:
    world = World(streams=2)
    flowing = [asyncio.create_task(world.ask(path="/stream")) for _ in range(2)]
    async with asyncio.timeout(60):
        while world.flowing < 2:
            await asyncio.sleep(0.01)
    assert await world.ask(path="/stream") == 429
    assert await world.ask(uid=8, path="/") == 200
    world.gate.set()
    assert await asyncio.gather(*flowing) == [200, 200]
    assert await world.ask(path="/stream") == 200


@in_a_loop
async def test_many_accounts_do_not_fill_the_memory() -> None:
    world = World()
    for uid in range(5000):
        assert await world.ask(uid=uid) == 200
    assert len(world.bounds._accounts) <= 1024


@pytest.mark.parametrize(
    "headers",
    [
        ((b"content-length", b"1048577"),),
        ((b"content-length", b"-1"),),
        ((b"content-length", b"many"),),
        ((b"transfer-encoding", b"chunked"),),
    ],
)
@in_a_loop
async def test_a_body_without_a_bound_is_refused(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert await World().ask(headers=headers) == 422


@pytest.fixture
def slow() -> Iterator[Appliance]:
    root = Path(tempfile.mkdtemp(prefix="bo"))
    home = Home(root / "h")
    home.root.mkdir()
    home.settings_file.write_text(json.dumps({"api": {"requests_per_s": 5, "burst": 10, "streams": 1}}))
    embedded.start(home, gateway=False)
    yield Appliance(home, Client(home.authority_socket))
    embedded.stop(home)


def test_the_client_waits_for_its_turn(slow: Appliance) -> None:
    for _ in range(20):
        assert slow.client.whoami().sole


def test_a_refusal_says_how_long_to_wait(slow: Appliance) -> None:
    transport = httpx.HTTPTransport(uds=str(slow.home.authority_socket))
    with httpx.Client(transport=transport, base_url="http://authority", timeout=60) as client:
        answers = [client.get("/v1/whoami")]
        while answers[-1].status_code == 200 and len(answers) < 2000:
            answers.append(client.get("/v1/whoami"))
        refused = answers[-1:]
        assert refused[0].status_code == 429
        assert refused[0].json()["code"] == "too-many-requests"
        assert int(refused[0].headers["retry-after"]) >= 1
        time.sleep(1.2)  # which earns as many as are asked for now
        with contextlib.ExitStack() as stack:
            codes = []
            for _ in range(5):
                answer = stack.enter_context(client.stream("GET", "/v1/events"))
                codes.append(answer.status_code)
            assert codes.count(200) == 1


def test_the_checked_in_document_is_that_of_the_code() -> None:
    kept = (Path(__file__).parents[2] / "deploy" / "openapi.json").read_text()
    assert document() == kept, "python -m cloister.appliance.openapi > deploy/openapi.json"


def test_every_path_of_the_document_says_who_may(appliance: Appliance) -> None:
    transport = httpx.HTTPTransport(uds=str(appliance.home.authority_socket))
    with httpx.Client(transport=transport, base_url="http://authority", timeout=60) as client:
        served = client.get("/v1/openapi.json").json()
        assert served == json.loads(document())
        for path in ("/openapi.json", "/docs", "/redoc"):
            assert client.get(path).status_code == 404
