"""What engines say of themselves: a few numbers of vLLM's own metrics, read over each engine's socket.

No request of anybody is seen, and nothing is kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from cloister.api import Deployment, DeploymentState, EngineLoad

ANSWER_S = 5.0
_FIGURE = re.compile(rb"^vllm:(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


async def figures(socket: str) -> dict[str, float] | None:
    """Its counters and gauges by name without `vllm:`, each the sum of its labels; None where it says nothing."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
            found: dict[str, float] = {}
            for name, value in _FIGURE.findall(await reader.read()):
                found[name.decode()] = found.get(name.decode(), 0.0) + float(value)
            return found or None
    except (OSError, TimeoutError, ValueError):
        return None
    finally:
        if writer is not None:
            writer.close()


async def loads(deployments: Sequence[Deployment]) -> list[EngineLoad]:
    """Of those that are ready and answer, asked all at once."""
    ready = [one for one in deployments if one.state == DeploymentState.READY and one.socket is not None]
    told = await asyncio.gather(*(figures(str(one.socket)) for one in ready))
    return [_load(one, found) for one, found in zip(ready, told, strict=True) if found is not None]


def _load(one: Deployment, found: dict[str, float]) -> EngineLoad:
    def count(name: str) -> int | None:
        return int(found[name]) if name in found else None

    return EngineLoad(
        deployment_id=one.deployment_id,
        running=count("num_requests_running"),
        waiting=count("num_requests_waiting"),
        cache_used=found.get("kv_cache_usage_perc"),
        cache_asked=count("prefix_cache_queries_total"),
        cache_found=count("prefix_cache_hits_total"),
    )
