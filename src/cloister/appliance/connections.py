"""Bounds on the connections of the socket themselves: how many one account holds, and how long a request's head may be.

Below `bounds`, which sees whole requests. It knows accounts by number, and no route.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cloister.api import Problem
from cloister.appliance.peer import PeerProtocol, peer_of

MAX_HEAD_BYTES = 64 << 10
_FULL = Problem(
    title="Too many requests",
    status=429,
    code="too-many-requests",
    detail="this account holds as many connections as one may",
    remedy="Close some of them; the settings say how many one account may have (`api.connections`).",
    values={"retry_after_s": 1.0},
)


def bounded_protocol(connections: int) -> type[PeerProtocol]:
    """The protocol of a listener at which each account may hold so many connections at a time."""
    held: Counter[int] = Counter()

    class Bounded(PeerProtocol):
        _uid: int | None = None
        _head: int | None = 0
        """Bytes of a request's head so far; None while its body comes."""

        def connection_made(self, transport: Any) -> None:
            connection = transport.get_extra_info("socket")
            uid = peer_of(connection).uid
            if held[uid] >= connections:
                self.transport = transport
                transport.write(_answer(_FULL))
                transport.close()
                return
            held[uid] += 1
            self._uid = uid
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._uid is not None:
                held[self._uid] -= 1
                if not held[self._uid]:
                    del held[self._uid]
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._uid is None:
                return
            if self._head is not None:
                if self._head > MAX_HEAD_BYTES:
                    self.transport.abort()
                    return
                self._head += len(data)
            super().data_received(data)

        def on_message_begin(self) -> None:
            self._head = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head = None
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._head = 0
            super().on_message_complete()

    return Bounded


def _answer(problem: Problem) -> bytes:
    """A whole response, after which the connection is closed."""
    body = problem.model_dump_json().encode()
    head = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
