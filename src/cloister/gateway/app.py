"""The walk of a request: route, key, body, model, intent, engine, completion, answer.

An ASGI application. What it lets through is on a list; what it cannot record it does not do. It does
not know how the directory is kept, nor where the ledger lies.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import secrets as randomness
from typing import Final, Literal

import msgspec
import structlog

from cloister.errors import LedgerUnavailable
from cloister.gateway import refusal
from cloister.gateway.authority import Secrets
from cloister.gateway.directory import Caller, Directory
from cloister.gateway.engine_pool import EnginePool
from cloister.gateway.inference import Passage
from cloister.gateway.journal import Journal
from cloister.gateway.keeping import Keeper
from cloister.gateway.limits import Limits
from cloister.gateway.refusal import Refusal
from cloister.gateway.reply import ClientGone, Message, Receive, Reply, Scope, Send, send_response
from cloister.gateway.request import parse

log = structlog.get_logger()

_HEALTH: Final = b"/healthz"
_ROUTES: Final[dict[tuple[str, bytes], Literal["chat", "text", "models"]]] = {
    ("POST", b"/v1/chat/completions"): "chat",
    ("POST", b"/v1/completions"): "text",
    ("GET", b"/v1/models"): "models",
}
_UNKNOWN_BODY: Final = 64 << 10
_DISCARD_S: Final = 5.0


class Gateway:
    """The application.

    Args:
        directory: who may ask for what, and where it runs.
        journal: where it is written down.
        engines: the way to the engines.
        limits: bounds of a request.
        keeper: where bodies go that policy wants kept.
    """

    def __init__(
        self,
        directory: Directory,
        journal: Journal,
        engines: EnginePool,
        limits: Limits,
        keeper: Keeper,
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._engines = engines
        self._limits = limits
        self._keeper = keeper
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
        """Whether a model could be asked, as far as it depends on no model."""
        fresh = self._directory.fresh(self._limits.stale_s)
        return self._secrets is not None and fresh and not self._directory.sink_dead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served here")
        if scope["raw_path"] == _HEALTH and scope["method"] == "GET":
            await send_response(send, 200 if self.ready else 503, b"", None, (b"content-type", b"text/plain"))
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
            log.error("request.fault", request_id=request.id, cause=where(fault))
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
        self._keeper = gateway._keeper
        self._engines = gateway._engines
        self._limits = gateway._limits
        self._secrets = gateway._secrets
        self._salt = gateway._salt
        self._scope = scope
        self._receive = receive
        self._reply = Reply(send, gateway._next_id())
        self._body_read = False
        self._caller: Caller | None = None

    @property
    def id(self) -> str:
        return self._reply.request_id

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
        if self._directory.sink_dead:
            raise refusal.sink_dead()
        target = self._directory.target(wanted.model)
        if target is None or not caller.may_use(target.name):
            raise refusal.unknown_model()
        if not target.ready:
            raise refusal.engine_stopped()
        salt = self._salt(caller.client_id, self._secrets)
        message = wanted.engine_body(cache_salt=salt, max_model_len=target.max_model_len, limits=self._limits)
        policy = self._directory.bodies
        digests = await self._keeper.keep(policy, "prompt", body)
        await self._journal.admitted(
            self._reply.request_id,
            caller.client_id,
            target,
            route=route,
            body_bytes=len(body),
            stream=wanted.stream,
            choices=wanted.choices,
            max_tokens=wanted.max_tokens,
            digests=digests,
        )
        del body
        passage = Passage(self._journal, self._engines, self._limits, self._reply, self._keeper, policy)
        await passage.run(caller, target, wanted, message, self._receive)

    async def refuse(self, outcome: Refusal) -> None:
        """Answer with an error; where an answer has begun, end the connection without its end."""
        if self._reply.started:
            return
        client_id = self._caller.client_id if self._caller else None
        await self._journal.refused(self._reply.request_id, client_id, outcome.status, outcome.code)
        keep = not outcome.close and (self._body_read or await self._discard_body())
        await self._reply.send_error(outcome, close=not keep)

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
        await self._journal.answered(self._reply.request_id, caller.client_id, "models.list")
        models = [
            {"id": target.name, "object": "model", "created": target.created, "owned_by": "cloister"}
            for target in self._directory.targets(caller)
        ]
        await self._reply.send_whole(200, msgspec.json.encode({"object": "list", "data": models}))

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
