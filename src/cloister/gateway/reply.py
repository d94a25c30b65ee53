"""The way back to one client: an answer whole, as a stream, or as an error. It does not know what is in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from cloister.gateway.refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_STORE: Final = (b"cache-control", b"no-store")


class ClientGone(Exception):
    """The client closed its connection, or stopped reading."""


class Reply:
    """One request's answer. `started` says that its status has gone out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False

    async def begin_stream(self) -> None:
        if not self.started:
            self.started = True
            headers = [_EVENTS, _NO_STORE, (b"x-request-id", self.request_id.encode())]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_block(self, block: bytes, *, last: bool) -> None:
        await self._send({"type": "http.response.body", "body": block, "more_body": not last})

    async def send_whole(self, status: int, body: bytes) -> None:
        self.started = True
        await send_response(self._send, status, body, self.request_id, _JSON, _NO_STORE)

    async def send_error(self, outcome: Refusal, *, close: bool = False) -> None:
        self.started = True
        headers = [_JSON, _NO_STORE]
        if close:
            headers.append((b"connection", b"close"))
        if outcome.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send_response(self._send, outcome.status, outcome.body(), self.request_id, *headers)


async def send_response(
    send: Send, status: int, body: bytes, request_id: str | None, *headers: tuple[bytes, bytes]
) -> None:
    listed = [(b"content-length", b"%d" % len(body)), *headers]
    if request_id is not None:
        listed.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body, "more_body": False})
