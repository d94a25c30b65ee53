"""The walk of a request: route, key, body, model, intent, engine, completion, answer.

An ASGI application. What it lets through is on a list; what it cannot record it does not do. It does
not know how the directory is kept, nor where the ledger lies.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import secrets as randomness
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any, Final, Literal

import msgspec
import structlog

from cloister.errors import LedgerUnavailable
from cloister.gateway import refusal
from cloister.gateway.answer import DONE, EventReader, Tally, engine_refusal
from cloister.gateway.authority import Secrets
from cloister.gateway.directory import Caller, Directory, Target
from cloister.gateway.engine_pool import (
    AnswerTooLarge,
    EngineLost,
    EnginePool,
    EngineTimeout,
    EngineUnreachable,
    Exchange,
)
from cloister.gateway.journal import Journal, Outcome
from cloister.gateway.limits import Limits
from cloister.gateway.refusal import Refusal
from cloister.gateway.request import Inference, parse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = structlog.get_logger()

_CHAT: Final = b"/v1/chat/completions"
_TEXT: Final = b"/v1/completions"
_MODELS: Final = b"/v1/models"
_HEALTH: Final = b"/healthz"
_ROUTES: Final[dict[tuple[str, bytes], Literal["chat", "text", "models"]]] = {
    ("POST", _CHAT): "chat",
    ("POST", _TEXT): "text",
    ("GET", _MODELS): "models",
}
_ENGINE_PATH: Final = {"chat": _CHAT.decode(), "text": _TEXT.decode()}
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_STORE: Final = (b"cache-control", b"no-store")
_UNKNOWN_BODY: Final = 64 << 10
_DISCARD_S: Final = 5.0


class ClientGone(Exception):
    """The client closed its connection, or stopped reading."""


class _Presence:
    """Watches whether the client is still there, and aborts the exchange with the engine when it is not."""

    def __init__(self, receive: Receive, exchange: Exchange) -> None:
        self.gone = False
        self._receive = receive
        self._exchange = exchange
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        self.gone = True
        self._exchange.abort()

    def end(self) -> None:
        self._task.cancel()


class Gateway:
    """The application.

    Args:
        directory: who may ask for what, and where it runs.
        journal: where it is written down.
        engines: the way to the engines.
        limits: bounds of a request.
    """

    def __init__(self, directory: Directory, journal: Journal, engines: EnginePool, limits: Limits) -> None:
        self._directory = directory
        self._journal = journal
        self._engines = engines
        self._limits = limits
        self._secrets: Secrets | None = None
        self._in_progress = 0
        self._salts: dict[str, str] = {}
        self._id_prefix = "req-" + randomness.token_hex(8)
        self._ids = itertools.count(1)

    def unlock(self, secrets: Secrets) -> None:
        """From now on keys can be checked."""
        self._secrets = secrets

    def lock(self) -> None:
        """From now on nothing is admitted, until the next `unlock`."""
        self._secrets = None
        self._salts.clear()

    def _next_id(self) -> str:
        return f"{self._id_prefix}-{next(self._ids):x}"

    def _salt(self, client_id: str, secrets: Secrets) -> str:
        """What keeps a client's prefixes apart in an engine's cache: CVE-2025-46570."""
        salt = self._salts.get(client_id)
        if salt is None:
            salt = hmac.digest(secrets.cache_key, client_id.encode(), "sha256").hex()
            self._salts[client_id] = salt
        return salt

    @property
    def ready(self) -> bool:
        return self._secrets is not None and self._directory.fresh(self._limits.stale_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served here")
        if scope["raw_path"] == _HEALTH and scope["method"] == "GET":
            await _send(send, 200 if self.ready else 503, b"", None, (b"content-type", b"text/plain"))
            return
        request = _Request(self, scope, receive, send)
        if self._in_progress >= self._limits.requests:
            await request.refuse(refusal.overloaded())
            return
        self._in_progress += 1
        try:
            await request.serve()
        except Refusal as outcome:
            await request.refuse(outcome)
        except ClientGone:
            self._journal.count_refused(499, "client_gone")
        except LedgerUnavailable:
            await request.refuse(refusal.ledger_failed())
        except Exception as fault:
            log.error("request.fault", request_id=request.request_id, cause=where(fault))
            await request.refuse(
                Refusal(500, "internal_error", "The gateway failed on this request.", close=True)
            )
        finally:
            self._in_progress -= 1


class _Request:
    """One request. `serve` answers it or raises the reason why not."""

    def __init__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        self._directory = gateway._directory
        self._journal = gateway._journal
        self._engines = gateway._engines
        self._limits = gateway._limits
        self._secrets = gateway._secrets
        self._salt = gateway._salt
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self._body_read = False
        self._caller: Caller | None = None
        self.request_id = gateway._next_id()

    async def serve(self) -> None:
        route = _ROUTES.get((self._scope["method"], self._scope["raw_path"]))
        if route is None:
            raise refusal.unknown_route()
        if self._secrets is None:
            raise refusal.not_ready()
        if not self._directory.fresh(self._limits.stale_s):
            raise refusal.stale()
        headers = _headers(self._scope)
        caller = self._authenticate(headers, self._secrets)
        if self._scope["query_string"]:
            raise Refusal(400, "query_not_allowed", "Query parameters are not accepted here.")
        if route == "models":
            await self._list_models(caller)
            return
        body = await self._body(headers)
        wanted = parse(route, body, self._limits)
        target = self._directory.target(wanted.model)
        if target is None or not caller.may_use(target.name):
            raise refusal.unknown_model()
        if not target.ready:
            raise refusal.engine_stopped()
        salt = self._salt(caller.client_id, self._secrets)
        message = wanted.engine_body(cache_salt=salt, max_model_len=target.max_model_len, limits=self._limits)
        await self._journal.admitted(
            self.request_id,
            caller.client_id,
            target,
            route=route,
            body_bytes=len(body),
            stream=wanted.stream,
            choices=wanted.choices,
            max_tokens=wanted.max_tokens,
        )
        del body
        await self._infer(caller, target, wanted, message)

    async def refuse(self, outcome: Refusal) -> None:
        """Answer with an error; where an answer has begun, end the connection without its end."""
        if self._started:
            return
        client_id = self._caller.client_id if self._caller else None
        await self._journal.refused(self.request_id, client_id, outcome.status, outcome.code)
        keep = not outcome.close and (self._body_read or await self._discard_body())
        await self._send_error(outcome, close=not keep)

    async def _discard_body(self) -> bool:
        """Take a small rest of the request off the connection; False where it is better closed."""
        headers = dict(self._scope["headers"])
        length = headers.get(b"content-length", b"0")
        bound = 4 * self._limits.body_bytes if self._caller else _UNKNOWN_BODY
        if b"transfer-encoding" in headers or b"expect" in headers or int(length) > bound:
            return False
        try:
            async with asyncio.timeout(_DISCARD_S):
                while int(length) and (await self._next_message())["more_body"]:
                    pass
        except (TimeoutError, ClientGone):
            return False
        return True

    def _authenticate(self, headers: dict[bytes, bytes], secrets: Secrets) -> Caller:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not 16 <= len(key) <= 256:
            raise refusal.bad_key()
        caller = self._directory.caller(key, secrets.pepper)
        if caller is None:
            raise refusal.bad_key()
        self._caller = caller
        return caller

    async def _list_models(self, caller: Caller) -> None:
        await self._journal.answered(self.request_id, caller.client_id, "models.list")
        models = [
            {"id": target.name, "object": "model", "created": target.created, "owned_by": "cloister"}
            for target in self._directory.targets(caller)
        ]
        await self._send_whole(200, msgspec.json.encode({"object": "list", "data": models}))

    async def _body(self, headers: dict[bytes, bytes]) -> bytes:
        kind, _, parameter = headers.get(b"content-type", b"").partition(b";")
        if kind.strip().lower() != b"application/json" or parameter.strip().lower() not in (
            b"",
            b"charset=utf-8",
        ):
            raise Refusal(
                415,
                "unsupported_media_type",
                "The body must be 'content-type: application/json'.",
                close=True,
            )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refusal(415, "unsupported_encoding", "The body must not be compressed.", close=True)
        length = headers.get(b"content-length", b"")
        if b"transfer-encoding" in headers or not length.isdigit():
            raise Refusal(411, "length_required", "The request must say its 'content-length'.", close=True)
        if int(length) > self._limits.body_bytes:
            raise Refusal(
                413,
                "body_too_large",
                f"The body is larger than the {self._limits.body_bytes} bytes allowed.",
            )
        self._body_read = True
        message = await self._next_message()
        if not message["more_body"]:
            first: bytes = message["body"]
            return first
        body = bytearray(message["body"])
        try:
            async with asyncio.timeout(self._limits.body_s):
                while message["more_body"]:
                    message = await self._next_message()
                    body += message["body"]
        except TimeoutError:
            raise Refusal(408, "body_timeout", "The body did not arrive in time.", close=True) from None
        return bytes(body)

    async def _next_message(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        message.setdefault("body", b"")
        message.setdefault("more_body", False)
        return message

    async def _infer(self, caller: Caller, target: Target, wanted: Inference, message: bytes) -> None:
        """From the durable intent to the durable completion; whatever happens, one completion is tried."""
        begun = monotonic()
        outcome = Outcome()
        tally = Tally(wanted.model, wanted.choices)
        exchange = self._engines.post(
            target.socket, _ENGINE_PATH[wanted.route], message, request_id=self.request_id
        )
        presence = _Presence(self._receive, exchange)
        failure: Refusal | None = None
        whole, held = b"", b""
        try:
            status = await exchange.status()
            if status != 200:
                raise engine_refusal(status, await exchange.read(1 << 16), target.max_model_len)
            if wanted.stream:
                held = await self._relay(exchange, tally, presence, wanted)
            else:
                whole = tally.whole(await exchange.read(self._limits.answer_bytes))
            outcome.status = 200
        except Refusal as refused:
            failure = refused
        except EngineUnreachable:
            failure = refusal.engine_stopped()
        except EngineTimeout:
            failure = refusal.engine_slow()
        except AnswerTooLarge:
            failure = refusal.engine_failed()
        except EngineLost:
            failure = None if presence.gone else refusal.engine_stopped()
        except ClientGone:
            pass
        except asyncio.CancelledError:
            failure = Refusal(503, "shutdown", "The gateway is shutting down.", close=True)
        finally:
            presence.end()
            exchange.close()
        if presence.gone:
            outcome.status, outcome.reason = 499, "client-gone"
        elif failure is not None:
            outcome.status, outcome.reason = failure.status, failure.code
        outcome.prompt_tokens, outcome.completion_tokens = tally.prompt_tokens, tally.completion_tokens
        outcome.finish_reason = tally.finish_reason
        outcome.events = tally.events if wanted.stream else None
        outcome.duration_ms = int((monotonic() - begun) * 1000)
        try:
            await self._journal.completed(self.request_id, caller.client_id, target, outcome)
        except LedgerUnavailable:
            if not self._started:
                await self._send_error(refusal.ledger_failed())
            return  # a stream that has begun is cut without its end
        if presence.gone:
            return
        if failure is not None:
            if not self._started:
                await self._send_error(failure, close=failure.close)
            else:
                await self._send_block(b"data: " + failure.body() + b"\n\n", last=True)
        elif wanted.stream:
            await self._begin_stream()
            await self._send_block(held + DONE, last=True)
        else:
            await self._send_whole(200, whole)

    async def _relay(self, exchange: Exchange, tally: Tally, presence: _Presence, wanted: Inference) -> bytes:
        """Pass events on as they come. Returns the last ones, which wait for the completion entry."""
        reader = EventReader(self._limits.event_bytes)
        held = bytearray()
        while True:
            block = await exchange.block()
            if not block:
                raise refusal.engine_failed()
            passed = bytearray()
            done = False
            fault: Refusal | None = None
            try:
                for data in reader.feed(block):
                    if data == b"[DONE]":
                        done = True
                        break
                    event = tally.event(data, usage=wanted.include_usage)
                    if tally.finished:
                        held += event
                    else:
                        passed += event
            except Refusal as found:
                fault = found
            if passed:
                await self._begin_stream()
                try:
                    async with asyncio.timeout(self._limits.write_s):
                        await self._send_block(bytes(passed), last=False)
                except TimeoutError:
                    presence.leave()
                    raise ClientGone from None
            if fault is not None:
                raise fault
            if len(held) > self._limits.event_bytes:
                raise refusal.engine_failed()
            if done:
                await self._drain(exchange)
                return bytes(held)

    async def _drain(self, exchange: Exchange) -> None:
        """Take the end of the engine's body, so that its connection can be used again."""
        if await exchange.block():
            raise refusal.engine_failed()

    async def _begin_stream(self) -> None:
        if not self._started:
            self._started = True
            headers = [_EVENTS, _NO_STORE, (b"x-request-id", self.request_id.encode())]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_block(self, block: bytes, *, last: bool) -> None:
        await self._send({"type": "http.response.body", "body": block, "more_body": not last})

    async def _send_whole(self, status: int, body: bytes) -> None:
        self._started = True
        await _send(self._send, status, body, self.request_id, _JSON, _NO_STORE)

    async def _send_error(self, outcome: Refusal, *, close: bool = False) -> None:
        self._started = True
        headers = [_JSON, _NO_STORE]
        if close:
            headers.append((b"connection", b"close"))
        if outcome.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await _send(self._send, outcome.status, outcome.body(), self.request_id, *headers)


async def _send(
    send: Send, status: int, body: bytes, request_id: str | None, *headers: tuple[bytes, bytes]
) -> None:
    listed = [(b"content-length", b"%d" % len(body)), *headers]
    if request_id is not None:
        listed.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """The headers that matter, each at most once: what comes twice could be read two ways."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _ONCE and name in found:
            raise Refusal(400, "repeated_header", "A header came twice.", param=name.decode(), close=True)
        found[name] = value
    return found


_ONCE: Final = frozenset(
    (b"authorization", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"host")
)


def where(fault: BaseException) -> str:
    """An exception's type and the line it came from: its text could hold content."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else "?"
    return f"{type(fault).__name__} in {place}"
