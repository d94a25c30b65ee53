"""How much one request, one connection and all of them together may ask of the gateway.

Plain numbers with their units; knows nothing of who sets them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of everything that an outsider can make large, slow or many.

    Args:
        connections: open connections; the next one is closed without an answer.
        requests: requests in progress; the next one gets 503.
        head_bytes: request line and headers of one request.
        headers: header lines of one request.
        body_bytes: request body.
        answer_bytes, event_bytes: an engine's whole answer, one event of a streamed one.
        max_tokens: most tokens that one request may ask for.
        head_s, body_s: seconds in which a client must deliver head and body.
        idle_s: seconds that a connection may stay open without a request.
        write_s: seconds for which a client may read nothing of an answer.
        connect_s: seconds for an engine to accept a connection.
        engine_s: seconds for an engine's whole answer.
        stale_s: seconds without a word from the authority after which nothing is admitted.
        drain_s: seconds that requests in progress get at shutdown.
    """

    connections: int = 1024
    requests: int = 256
    head_bytes: int = 16 << 10
    headers: int = 64
    body_bytes: int = 4 << 20
    answer_bytes: int = 32 << 20
    event_bytes: int = 1 << 20
    max_tokens: int = 4096
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    write_s: float = 60.0
    connect_s: float = 3.0
    engine_s: float = 600.0
    stale_s: float = 60.0
    drain_s: float = 30.0
