"""What an engine says of itself: read off vLLM's own metrics, of engines that are ready and answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from cloister.api import Deployment, DeploymentState, ServeConfig
from cloister.appliance.engine_load import figures, loads

METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.125
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 4096.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.77e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1024.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.5"} 2.0
process_resident_memory_bytes 1.0
"""


@asynccontextmanager
async def engine(path: Path, told: bytes) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + told)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        yield str(path)


def deployment(name: str, socket: str | None, state: DeploymentState = DeploymentState.READY) -> Deployment:
    return Deployment(
        deployment_id=f"dp-{name}",
        name=name,
        model="mm-1",
        state=state,
        config=ServeConfig(),
        socket=socket,
        created_at=datetime.now(UTC),
        created_by="omar",
    )


def test_work_and_cache_are_read_of_those_that_are_ready_and_answer(tmp_path: Path) -> None:
    async def walk() -> None:
        async with (
            engine(tmp_path / "one.sock", METRICS) as one,
            engine(tmp_path / "little.sock", b"vllm:num_requests_running 0.0\n") as little,
            engine(tmp_path / "strange.sock", b"<html>vllm: 500</html>") as strange,
        ):
            found = await loads(
                [
                    deployment("one", one),
                    deployment("little", little),
                    deployment("strange", strange),
                    deployment("gone", str(tmp_path / "gone.sock")),
                    deployment("starts", one, DeploymentState.STARTING),
                    deployment("stopped", None, DeploymentState.STOPPED),
                ]
            )
            assert await figures(strange) is None
        assert [load.deployment_id for load in found] == ["dp-one", "dp-little"]
        first, second = found
        assert (first.running, first.waiting, first.cache_used) == (3, 1, 0.125)
        assert (first.cache_asked, first.cache_found) == (4096, 1024)
        assert (second.running, second.waiting, second.cache_used, second.cache_asked) == (
            0,
            None,
            None,
            None,
        )

    asyncio.run(walk())
