"""The figures for Prometheus on a loopback port, where the settings open one. One path, no name, no content."""

from __future__ import annotations

import asyncio
import socket

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloister.appliance.authority import Authority
from cloister.errors import InvalidInput


def metrics_app(authority: Authority) -> Starlette:
    """`GET /metrics`, and nothing else. Whoever reaches the port may read it: it is closed unless asked for."""

    async def metrics(_: Request) -> Response:
        text = await asyncio.to_thread(authority.figures.text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


def metrics_listener(address: str) -> socket.socket:
    """A socket that listens there. Errors: InvalidInput where the port is taken."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"cannot listen there: {error.strerror}",
            where=f"api.metrics: {address}",
            remedy="Choose another port.",
        ) from None
    listener.listen(16)
    return listener
