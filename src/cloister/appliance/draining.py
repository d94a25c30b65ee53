"""Waiting until an engine has answered what it was asked: it counts its requests, and nobody sends it more.

It reads two numbers of vLLM's own metrics over the engine's socket, no request, and stops nothing.
"""

from __future__ import annotations

import asyncio

from cloister.appliance.engine_load import figures

LOOK_EVERY_S = 0.25
QUIET_S = 1.0
"""Without a request for so long it is idle: what the gateway let through just before is with it by then."""


async def answered(socket: str, within_s: float) -> bool:
    """Wait until the engine is idle. False where the time ended first, True also where it answers no more."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    quiet_since: float | None = None
    while loop.time() < end:
        count = await requests(socket)
        if count is None:
            return True
        if count:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = loop.time()
        elif loop.time() - quiet_since >= QUIET_S:
            return True
        await asyncio.sleep(LOOK_EVERY_S)
    return False


async def requests(socket: str) -> int | None:
    """How many requests it works at or has waiting, None where it says nothing."""
    told = await figures(socket) or {}
    counts = [told[name] for name in ("num_requests_running", "num_requests_waiting") if name in told]
    return int(sum(counts)) if counts else None
