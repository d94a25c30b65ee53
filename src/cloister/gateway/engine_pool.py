"""Kept-open HTTP connections to the engines' Unix sockets, one exchange at a time on each.

Sends one POST and hands back the answer's status and body as they come, without reading ahead of the
caller by more than a bound. Knows nothing of OpenAI's shapes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, cast

import httptools

_HIGH_WATER: Final = 256 << 10
_IDLE_S: Final = 2.0  # an engine closes a connection after 5 s: stay clear of the race
_KEPT: Final = 64


class EngineUnreachable(Exception):
    """Nobody accepts connections at the engine's socket."""


class EngineLost(Exception):
    """The engine closed the connection, or sent what is not HTTP, before its answer was complete."""


class EngineTimeout(Exception):
    """The engine's time for an answer is over."""


class AnswerTooLarge(Exception):
    """The engine's answer exceeds its bound."""


class _Connection(asyncio.Protocol):
    """One connection. `body` holds what has come and was not yet taken."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self.transport: asyncio.Transport
        self.lost = False
        self.idle_since = 0.0
        self.used = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers_done = False
        self.complete = False
        self._keeps_alive = False
        self.body = bytearray()

    def request(self, head_and_body: bytes) -> None:
        if self.used:
            self._begin()
        self.transport.write(head_and_body)

    async def changed(self) -> None:
        """Wait until something came or the connection is lost. One waiter at a time."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> bytes:
        block = bytes(self.body)
        self.body.clear()
        if self._paused:
            self._paused = False
            if not self.lost:
                self.transport.resume_reading()
        return block

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.wake()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.lost = True
            self.transport.abort()
        if self.complete and not self._keeps_alive:
            self.lost = True
            self.transport.close()
        self.wake()

    # httptools

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.headers_done = self.status >= 200
        self._keeps_alive = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > _HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True


class Exchange:
    """One request to an engine and its answer. Always `close` it; `abort` ends it from anywhere."""

    def __init__(self, pool: EnginePool, socket: str, message: bytes, timeout_s: float) -> None:
        self._pool = pool
        self._socket = socket
        self._message = message
        self._connection: _Connection | None = None
        self._aborted = False
        self._expired = False
        self._timer = pool.loop.call_later(timeout_s, self._expire)

    async def status(self) -> int:
        """Send the request and wait for the answer's status.

        A kept connection that the engine closed before it said anything is replaced once by a new one.

        Raises:
            EngineUnreachable, EngineLost, EngineTimeout
        """
        fresh = False
        while True:
            connection = self._connection = await self._pool.connection(self._socket, fresh=fresh)
            self._check()
            connection.request(self._message)
            while not connection.headers_done and not connection.lost:
                await connection.changed()
                self._check()
            if connection.headers_done:
                return connection.status
            if not connection.used or connection.status:
                raise EngineLost
            fresh = True

    async def block(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises EngineLost or EngineTimeout."""
        connection = self._connection
        assert connection is not None
        while not connection.body and not connection.complete:
            self._check()
            if connection.lost:
                raise EngineLost
            await connection.changed()
        self._check()
        return connection.take()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises AnswerTooLarge beyond `limit` bytes."""
        first = await self.block()
        connection = self._connection
        assert connection is not None
        if connection.complete and not connection.body:
            if len(first) > limit:
                raise AnswerTooLarge
            return first
        whole = bytearray(first)
        while block := await self.block():
            whole += block
            if len(whole) > limit:
                raise AnswerTooLarge
        return bytes(whole)

    def abort(self) -> None:
        """Drop the connection, which makes an engine stop working on the request."""
        self._aborted = True
        self._drop()

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else drop it."""
        self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.complete and not connection.lost and not connection.body:
            self._pool.keep(self._socket, connection)
        else:
            connection.transport.abort()

    def _expire(self) -> None:
        self._expired = True
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.lost = True
            self._connection.transport.abort()
            self._connection.wake()

    def _check(self) -> None:
        if self._expired:
            raise EngineTimeout
        if self._aborted:
            raise EngineLost


class EnginePool:
    """Connections by socket path. At most 64 idle ones a socket are kept, each for two seconds.

    Args:
        connect_s: seconds for an engine to accept a connection.
        answer_s: seconds for a whole answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connect_s: float, answer_s: float) -> None:
        self.loop = loop
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._idle: dict[str, deque[_Connection]] = {}

    def post(self, socket: str, path: str, body: bytes, *, request_id: str) -> Exchange:
        """Prepare a POST of a JSON document; `Exchange.status` sends it."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
            f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return Exchange(self, socket, head.encode("ascii") + body, self._answer_s)

    async def connection(self, socket: str, *, fresh: bool) -> _Connection:
        """An idle connection, or a new one. Raises EngineUnreachable."""
        idle = self._idle.get(socket)
        while idle:
            kept = idle.pop()
            if not fresh and not kept.lost and self.loop.time() - kept.idle_since < _IDLE_S:
                return kept
            kept.transport.abort()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await self.loop.create_unix_connection(
                    lambda: _Connection(self.loop), path=socket
                )
        except (OSError, TimeoutError):
            raise EngineUnreachable from None
        return connection

    def keep(self, socket: str, connection: _Connection) -> None:
        connection.used = True
        connection.idle_since = self.loop.time()
        idle = self._idle.setdefault(socket, deque())
        idle.append(connection)
        if len(idle) > _KEPT:
            idle.popleft().transport.abort()

    def forget(self, sockets: frozenset[str]) -> None:
        """Close what is kept for sockets other than these."""
        for socket in [s for s in self._idle if s not in sockets]:
            for connection in self._idle.pop(socket):
                connection.transport.abort()

    def close(self) -> None:
        self.forget(frozenset())
