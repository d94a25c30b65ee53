"""uvicorn with bounds: heads, connections, pipelines and clients that are slow or do not read.

Everything below the level of a request. Does not know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cloister.gateway.limits import Limits
from cloister.gateway.refusal import Refusal

_PIPELINED: Final = 8
_FLUSH_S: Final = 10.0


class _HeadTooLarge(Exception):
    pass


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        limits: its bounds.
        on_malformed: told the status and the code of what was refused before it was a request.
    """

    def __init__(
        self, *args: Any, limits: Limits, on_malformed: Callable[[int, str], None], **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._limits = limits
        self._on_malformed = on_malformed
        self._in_head = True
        self._raw_bytes = 0
        self._chunk_bytes = 0
        self._field_bytes = 0
        self._fields = 0
        self._too_large = False
        self._head_timer: asyncio.TimerHandle | None = None
        self.closing_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._on_malformed(503, "too_many_connections")
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # The parser keeps an unfinished header to itself, so raw bytes are counted while in a head.
        self._chunk_bytes = len(data) if self._in_head and not self._raw_bytes else 0
        if self._in_head:
            self._raw_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._raw_bytes > self._limits.head_bytes and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head = True
        self._raw_bytes, self._chunk_bytes = self._chunk_bytes, 0
        self._field_bytes = 0
        self._fields = 0
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_field(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._count_field(len(name) + len(value))
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._raw_bytes = 0
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        if len(self.pipeline) >= _PIPELINED:
            raise ValueError("too many requests at once")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not a request gets a short answer of ours, and is counted."""
        if self.transport.is_closing():
            return
        if self._too_large:
            outcome = Refusal(431, "head_too_large", "The request's head is too large.")
        else:
            outcome = Refusal(400, "malformed_request", "This is not a well-formed HTTP request.")
        self._on_malformed(outcome.status, outcome.code)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way: nothing may be mixed into it
            return
        body = outcome.body()
        head = (
            f"HTTP/1.1 {outcome.status} Refused\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _count_field(self, length: int) -> None:
        """Fields behind the head (trailers) have no place here at all."""
        self._field_bytes += length
        if (
            not self._in_head
            or self._fields > self._limits.headers
            or self._field_bytes > self._limits.head_bytes
        ):
            self._too_large = True
            raise _HeadTooLarge

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self._on_malformed(408, "head_timeout")
            self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn's server, ended by `stop`, that lets go of clients which do not read what they asked for."""

    def stop(self) -> None:
        """Accept nothing more; `serve` returns when requests in progress have ended or been cut."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            moment = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol) and connection.transport.is_closing():
                    if connection.closing_since is None:
                        connection.closing_since = moment
                    elif moment - connection.closing_since > _FLUSH_S:
                        connection.transport.abort()
        return await super().on_tick(counter)


def make_server(
    app: Any,
    limits: Limits,
    *,
    on_malformed: Callable[[int, str], None],
    tls: ssl.SSLContext | None = None,
) -> Server:
    """A server for sockets that are bound already: `await server.serve([socket])`."""
    protocol = functools.partial(BoundedProtocol, limits=limits, on_malformed=on_malformed)
    config = uvicorn.Config(
        app,
        loop="none",
        http=cast("Any", protocol),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=int(limits.drain_s),
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )
    return Server(config)


def tls_context(cert: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """TLS 1.3 and nothing older; with `client_ca`, only for clients that hold a certificate of it.

    Raises:
        OSError, ssl.SSLError: a file cannot be read or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def bind_tcp(host: str, port: int) -> socket.socket:
    """A TCP socket, bound. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound
