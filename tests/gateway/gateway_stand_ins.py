"""Real servers on Unix sockets in the places of the authority and the engine, and the gateway's process.

They speak the same documents as the real ones, and can be made to hang, die and come back.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import OpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cloister.api import (
    ApiClient,
    BodiesPolicy,
    Deployment,
    DeploymentState,
    Event,
    GatewaySecrets,
    GatewayView,
    ServeConfig,
)
from cloister.errors import Tampered
from cloister.ledger import Ledger

CANARY = "canary-8b1f-only-in-prompts-and-answers"
POLICY = "5e" * 32
"""The digest of the policy set in force."""


def wait_for(what: Callable[[], Any], *, patience: float = 60.0) -> Any:
    """Ask until the answer is true. Only a bound against hanging: no test asserts a time."""
    deadline = time.monotonic() + patience
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to pass")
        time.sleep(0.01)
    return found


class UnixServer:
    """An ASGI application on a Unix socket, in a thread; can be stopped and started again."""

    def __init__(self, app: Any, path: Path) -> None:
        self.app = app
        self.path = path
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(128)
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=0,
        )
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        self._thread.start()
        wait_for(lambda: server.started)

    def stop(self) -> None:
        """Cut every connection and end, as a killed process would."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            loop = connection.loop
            loop.call_soon_threadsafe(connection.transport.abort)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server does not end"
        self.path.unlink(missing_ok=True)
        self._server = self._thread = None


class StandInAuthority:
    """What the gateway asks of the authority, over the real socket with the real documents."""

    def __init__(self, path: Path) -> None:
        self.keep_alive_s = 0.1
        self.poll_s = 0.01
        self.hellos: list[dict[str, Any]] = []
        self.viewed = 0
        """How many events are told of in the newest view that was handed out."""
        self.ledger_seed, self.pepper, self.cache_key = (secrets.token_bytes(32) for _ in range(3))
        self._events: list[Event] = []
        routes = [
            Route("/v1/gateway/secrets", self._secrets),
            Route("/v1/gateway/view", self._view),
            Route("/v1/events", self._stream),
            Route("/v1/gateway/hello", self._hello, methods=["POST"]),
        ]
        self.server = UnixServer(Starlette(routes=routes), path)

    def reset(self) -> None:
        self.locked = self.muted = self.view_fails = False
        self.bodies = BodiesPolicy()
        self.dead_sinks: list[str] = []
        self._clients: dict[str, ApiClient] = {}
        self._deployments: dict[str, Deployment] = {}
        if not self.server.running:
            self.server.start()

    def issue(
        self, *, deployments: list[str] | None = None, expires_in: timedelta | None = None
    ) -> tuple[str, ApiClient]:
        key = "ck-" + secrets.token_urlsafe(24)
        moment = datetime.now(UTC)
        client = ApiClient(
            client_id="cl-" + secrets.token_hex(6).translate(str.maketrans("ilou", "abcd")),
            name="app",
            deployments=deployments or [],
            created_at=moment,
            created_by="tests",
            expires_at=moment + expires_in if expires_in is not None else None,
            key_hash=hmac.new(self.pepper, key.encode(), hashlib.sha256).hexdigest(),
        )
        self._clients[client.client_id] = client
        self._tell("client.issued", client.client_id)
        return key, client

    def keep(self, bodies: BodiesPolicy) -> None:
        """Tell which bodies are to be kept from now on."""
        self.bodies = bodies
        self._tell("vault.unlocked", None)

    def tell_of_sinks(self, dead: list[str]) -> None:
        """Tell which required audit sinks are dead from now on."""
        self.dead_sinks = dead
        self._tell("sink.dead" if dead else "sink.back", None)

    def lock(self) -> None:
        self.locked = True
        self._tell("vault.locked", None)

    def revoke(self, client: ApiClient) -> None:
        revoked = client.model_copy(update={"revoked_at": datetime.now(UTC)})
        self._clients[client.client_id] = revoked
        self._tell("client.revoked", client.client_id)

    def lose(self, kind: str, number: int) -> None:
        """Tell that events are lost, of which only the view knows; the event has that number."""
        self._events.append(Event(seq=number, time=datetime.now(UTC), kind=kind, subject=None))

    def revoke_unheard(self, client: ApiClient) -> None:
        """Revoke without an event."""
        self._clients[client.client_id] = client.model_copy(update={"revoked_at": datetime.now(UTC)})

    def deploy(
        self,
        name: str,
        engine_socket: Path,
        *,
        state: DeploymentState = DeploymentState.READY,
        max_model_len: int = 1024,
    ) -> Deployment:
        known = self._deployments.get(name)
        deployment = Deployment(
            deployment_id=known.deployment_id if known else "dp-" + secrets.token_hex(6),
            name=name,
            model="mm-000000000001",
            state=state,
            config=ServeConfig(max_model_len=max_model_len),
            socket=str(engine_socket),
            created_at=datetime.now(UTC),
            created_by="tests",
        )
        self._deployments[name] = deployment
        self._tell("deployment.changed", deployment.deployment_id)
        return deployment

    @property
    def seq(self) -> int:
        return len(self._events)

    def _tell(self, kind: str, subject: str | None) -> None:
        self._events.append(
            Event(seq=len(self._events) + 1, time=datetime.now(UTC), kind=kind, subject=subject)
        )

    async def _secrets(self, request: Request) -> Response:
        if self.locked:
            return JSONResponse({"title": "Locked", "status": 423}, 423)
        encoded = [base64.b64encode(s).decode() for s in (self.ledger_seed, self.pepper, self.cache_key)]
        document = GatewaySecrets(ledger_seed=encoded[0], pepper=encoded[1], cache_key=encoded[2])
        return Response(document.model_dump_json(), media_type="application/json")

    async def _view(self, request: Request) -> Response:
        if self.view_fails:
            return JSONResponse({"title": "Internal error", "status": 500}, 500)
        view = GatewayView(
            seq=self.seq,
            clients=list(self._clients.values()),
            deployments=list(self._deployments.values()),
            bodies=self.bodies,
            policy=POLICY,
            dead_sinks=self.dead_sinks,
        )
        self.viewed = view.seq
        return Response(view.model_dump_json(), media_type="application/json")

    async def _hello(self, request: Request) -> Response:
        self.hellos.append(await request.json())
        return JSONResponse({})

    async def _stream(self, request: Request) -> Response:
        after = int(request.query_params["after"])

        async def lines() -> Any:
            at = after
            spoken = time.monotonic()
            while True:
                if not self.muted:
                    for event in self._events[at:]:
                        yield f"id: {event.seq}\ndata: {event.model_dump_json()}\n\n"
                        at += 1
                    if time.monotonic() - spoken >= self.keep_alive_s:
                        spoken = time.monotonic()
                        yield ": keep-alive\n\n"
                await asyncio.sleep(self.poll_s)

        return StreamingResponse(lines(), media_type="text/event-stream")


class StandInEngine:
    """An engine that answers like vLLM does, with words that are told beforehand.

    `behave` is one of `answer`, `error` (400 that repeats the prompt), `too-long`, `fail` (500), `die` (cuts
    the stream after two words), `hang`, `stream-error`, `garbage`.
    """

    def __init__(self, path: Path) -> None:
        self.go_on = threading.Event()
        routes = [
            Route("/v1/chat/completions", self._infer, methods=["POST"]),
            Route("/v1/completions", self._infer, methods=["POST"]),
        ]
        self.server = UnixServer(Starlette(routes=routes), path)

    def reset(self) -> None:
        self.words = ["one ", "two ", CANARY, " three"]
        self.behave = "answer"
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gone = 0
        self.go_on.set()
        if not self.server.running:
            self.server.start()

    async def _infer(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        chat = request.url.path.startswith("/v1/chat")
        if self.behave == "error":
            return JSONResponse({"error": {"message": f"bad: {json.dumps(body)}", "code": 400}}, 400)
        if self.behave == "too-long":
            message = f"This model's maximum context length is 16 tokens. {json.dumps(body)}"
            return JSONResponse({"error": {"message": message, "code": 400}}, 400)
        if self.behave == "fail":
            return JSONResponse({"error": {"message": f"boom {json.dumps(body)}"}}, 500)
        if self.behave == "garbage":
            return Response(b"<html>" + json.dumps(body).encode(), media_type="text/html")
        if self.behave == "hang":
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            self.gone += 1
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": len(self.words),
            "total_tokens": 7 + len(self.words),
        }
        base = {"id": "x-" + request.headers["x-request-id"], "created": 1, "model": "/tmp/model"}
        if not body.get("stream"):
            while not self.go_on.is_set():
                await asyncio.sleep(0.005)
            text = "".join(self.words)
            answer = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices = [
                {"index": i, "finish_reason": "stop", "stop_reason": None, **answer}
                for i in range(body.get("n", 1))
            ]
            return JSONResponse(
                {**base, "object": "o", "choices": choices, "usage": usage, "prompt_text": CANARY}
            )
        return StreamingResponse(self._events(base, chat, usage, body), media_type="text/event-stream")

    async def _events(self, base: dict[str, Any], chat: bool, usage: dict[str, int], body: Any) -> Any:
        def event(words: str, finish: str | None) -> str:
            part = {"delta": {"content": words}} if chat else {"text": words}
            choice = {"index": 0, "finish_reason": finish, **part}
            return "data: " + json.dumps({**base, "object": "chunk", "choices": [choice]}) + "\n\n"

        try:
            for number, word in enumerate(self.words):
                if self.behave == "stream-error" and number == 2:
                    yield "data: " + json.dumps({"error": {"message": CANARY}}) + "\n\n"
                    yield "data: [DONE]\n\n"
                    return
                if self.behave == "die" and number == 2:
                    raise RuntimeError("killed")
                while number and not self.go_on.is_set():
                    await asyncio.sleep(0.005)
                yield event(word, "stop" if number == len(self.words) - 1 else None)
            if body.get("stream_options", {}).get("include_usage"):
                yield "data: " + json.dumps({**base, "choices": [], "usage": usage}) + "\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.gone += 1
            raise


class GatewayProcess:
    """`python -m cloister.gateway` over a home. Its standard error is kept in `errors`."""

    ORIGIN = "cloister/tests/gateway"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = home / "gateway.err"
        self.since = 0
        """The index of the first entry that `entries` gives."""

    def start(self, *arguments: str, wait: bool = True, preexec: Callable[[], None] | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cloister.gateway"),
                    *("--home", str(self.home), "--origin", self.ORIGIN),
                    *arguments,
                ],
                stderr=errors,
                stdout=subprocess.DEVNULL,
                env=environment,
                preexec_fn=preexec,
            )
        if wait:
            wait_for(lambda: self.announced() or self.process.poll() is not None)
            assert self.process.poll() is None, self.errors.read_text()

    def announced(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.home / "run" / "gateway" / "gateway.json").read_text())
        except FileNotFoundError:
            return None

    @property
    def url(self) -> str:
        announced = self.announced()
        assert announced is not None
        return str(announced["url"])

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.split("//")[1].rsplit(":", 1)
        return host, int(port)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def entries(self) -> list[dict[str, Any]]:
        """What the ledger holds now from `since` on, read from a copy while the process runs on."""
        for _ in range(500):
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "ledger"
                try:
                    shutil.copytree(self.home / "ledger" / "gateway", copy)
                    ledger = Ledger.open(copy, origin=self.ORIGIN, signer=None)
                except (OSError, Tampered):  # the tree grew while it was copied
                    time.sleep(0.02)
                    continue
                try:
                    return list(ledger.entries(self.since, ledger.size))
                finally:
                    ledger.close()
        raise AssertionError("the ledger could not be copied")

    def actions(self, action: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries() if entry["action"] == action]


@dataclass
class Site:
    """A gateway with everything around it; `key` may use every deployment, and there is one, `claims`."""

    authority: StandInAuthority
    engine: StandInEngine
    gateway: GatewayProcess
    http: httpx.Client
    key: str = ""
    client: ApiClient | None = None

    def openai(self, key: str | None = None) -> OpenAI:
        url = self.gateway.url + "/v1"
        # Connections of its own: a stream that a test leaves half-read is collected at any time, maybe in the middle of
        # another request, and must not wait for the lock that this one holds.
        http = httpx.Client(verify=False)
        return OpenAI(base_url=url, api_key=key or self.key, max_retries=0, timeout=60, http_client=http)

    def status(self, key: str) -> int:
        """What a key gets for the list of models."""
        headers = {"authorization": f"Bearer {key}"}
        return self.http.get(self.gateway.url + "/v1/models", headers=headers).status_code

    def known(self, key: str) -> None:
        """Wait until a key works. Who asks before the gateway can know it uses up the refusals that get entries of
        their own, and the next ones are only counted."""
        wait_for(lambda: self.authority.viewed >= self.authority.seq)
        wait_for(lambda: self.status(key) == 200)

    def start(self, *arguments: str) -> None:
        self.gateway.start(*arguments)
        self.ready()

    def ready(self) -> None:
        wait_for(lambda: self.health() == 200)

    def health(self) -> int:
        return self.http.get(self.gateway.url + "/healthz").status_code

    def furnish(self) -> None:
        """Everything as at the beginning, and a client of its own for the next test."""
        self.engine.reset()
        self.authority.reset()
        self.authority.deploy("claims", self.engine.server.path)
        self.key, self.client = self.authority.issue()  # last: a gateway that knows it knows the rest

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Site]:
        # One client for all: making one reads the system's certificates, which are not used here.
        with short_home() as home, httpx.Client(verify=False, timeout=60) as http:  # no TLS here
            site = cls(
                StandInAuthority(home / "run" / "authority.sock"),
                StandInEngine(home / "run" / "engines" / "e.sock"),
                GatewayProcess(home),
                http,
            )
            site.furnish()
            try:
                yield site
            finally:
                site.engine.go_on.set()
                if site.gateway.process is not None:
                    site.gateway.process.kill()
                    site.gateway.process.wait()
                    print(site.gateway.errors.read_text())
                site.engine.server.stop()
                site.authority.server.stop()


@contextmanager
def short_home() -> Iterator[Path]:
    """A home whose socket paths stay below the 108 bytes that a Unix socket may have."""
    home = Path(tempfile.mkdtemp(prefix="cg-", dir="/tmp"))
    (home / "run" / "engines").mkdir(parents=True, mode=0o700)
    try:
        yield home
    finally:
        shutil.rmtree(home)
