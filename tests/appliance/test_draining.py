"""An engine is drained: waited for while it has requests, by what it counts itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloister.appliance import draining

METRICS = (
    "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
    'vllm:num_requests_running{{engine="0",model_name="m"}} {running}\n'
    'vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}\n'
    'vllm:num_requests_waiting_by_reason{{engine="0"}} 7.0\n'
)


@asynccontextmanager
async def engine(path: Path, counts: Callable[[], tuple[float, float]]) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        running, waiting = counts()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + METRICS.format(running=running, waiting=waiting).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    async with server:
        yield str(path)


def test_it_waits_for_what_runs_and_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(draining, "QUIET_S", 0.05)
    left = [(2.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)]

    async def walk() -> None:
        async with engine(tmp_path / "engine.sock", lambda: left.pop(0) if left else (0.0, 0.0)) as socket:
            assert await draining.requests(socket) == 3
            assert await draining.answered(socket, 20)
            assert not left, "also what came in between was waited for"

    asyncio.run(walk())


def test_it_ends_with_its_time_and_where_nothing_answers(tmp_path: Path) -> None:
    async def walk() -> None:
        async with engine(tmp_path / "engine.sock", lambda: (1.0, 0.0)) as socket:
            assert not await draining.answered(socket, 0.05)
        assert await draining.answered(str(tmp_path / "none.sock"), 20)

    asyncio.run(walk())
