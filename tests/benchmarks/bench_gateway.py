"""What the gateway adds: requests through it against requests straight to the engine's Unix socket.

A stand-in engine answers at once, in a process of its own; the gateway runs as it does in the appliance,
with its two durable ledger entries a request; one client drives both, over kept-open connections,
in alternating rounds. Times are of whole requests, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httptools
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

from gateway_stand_ins import GatewayProcess, StandInAuthority, short_home, wait_for

ROUNDS = 8
REQUESTS = {1: 250, 8: 500, 32: 1000}
BODY = json.dumps(
    {
        "model": "claims",
        "messages": [{"role": "user", "content": "word " * 120}],
        "max_tokens": 64,
        "temperature": 0,
    }
).encode()
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "answer " * 30},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 130, "completion_tokens": 31, "total_tokens": 161},
    }
).encode()


class InstantEngine(asyncio.Protocol):
    """Answers every request with the same document as soon as its body is whole."""

    response = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
        + ANSWER
    )

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(self.response)


class BenchClient(asyncio.Protocol):
    """One kept-open connection: `ask` sends a request and waits for the whole answer."""

    def __init__(self) -> None:
        self.waiter: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self.waiter is not None
        self.waiter.set_result(self.parser.get_status_code())

    async def ask(self, message: bytes) -> float:
        self.parser = httptools.HttpResponseParser(self)
        self.waiter = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        self.transport.write(message)
        status = await self.waiter
        taken = time.perf_counter() - begun
        if status != 200:
            raise RuntimeError(f"the answer's status is {status}")
        return taken * 1000


def message(key: str) -> bytes:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


async def round_of(where: str | tuple[str, int], request: bytes, concurrency: int, total: int) -> list[float]:
    loop = asyncio.get_running_loop()
    taken: list[float] = []

    async def one() -> None:
        if isinstance(where, str):
            transport, client = await loop.create_unix_connection(BenchClient, where)
        else:
            transport, client = await loop.create_connection(BenchClient, *where)
        for _ in range(5):
            await client.ask(request)
        for _ in range(total // concurrency):
            taken.append(await client.ask(request))
        transport.close()

    await asyncio.gather(*(one() for _ in range(concurrency)))
    return taken


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def compare(engine: str, gateway: tuple[str, int], request: bytes) -> list[dict[str, float]]:
    rows = []
    for concurrency, total in REQUESTS.items():
        straight: list[float] = []
        through: list[float] = []
        for _ in range(ROUNDS):
            straight += await round_of(engine, request, concurrency, total)
            through += await round_of(gateway, request, concurrency, total)
        row = {
            "concurrency": concurrency,
            "requests": len(through),
            "straight_median_ms": statistics.median(straight),
            "gateway_median_ms": statistics.median(through),
            "straight_p99_ms": quantile(straight, 0.99),
            "gateway_p99_ms": quantile(through, 0.99),
        }
        row["added_median_ms"] = row["gateway_median_ms"] - row["straight_median_ms"]
        row["ratio_median"] = row["gateway_median_ms"] / row["straight_median_ms"]
        rows.append({name: round(value, 3) for name, value in row.items()})
    return rows


async def serve_engine(path: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(InstantEngine, path)
    await server.serve_forever()


def main() -> None:
    if sys.argv[1:2] == ["--engine"]:
        uvloop.run(serve_engine(sys.argv[2]))
        return
    with short_home() as home:
        socket = home / "run" / "engines" / "e.sock"
        engine = subprocess.Popen([sys.executable, __file__, "--engine", str(socket)])
        authority = StandInAuthority(home / "run" / "authority.sock")
        authority.keep_alive_s, authority.poll_s = 5.0, 0.5
        gateway = GatewayProcess(home)
        try:
            wait_for(socket.exists)
            authority.reset()
            key, _ = authority.issue()
            authority.deploy("claims", socket)
            gateway.start()
            wait_for(lambda: "gateway.unlocked" in gateway.errors.read_text())
            time.sleep(0.5)
            rows = uvloop.run(compare(str(socket), gateway.address, message(key)))
            gateway.stop()
            entries = len(gateway.entries())
        finally:
            engine.kill()
            engine.wait()
            if gateway.process is not None and gateway.process.poll() is None:
                gateway.process.kill()
                gateway.process.wait()
            authority.server.stop()
    print(
        f"{'concurrency':>11} {'straight':>10} {'gateway':>10} {'added':>10} {'p99 straight':>13} {'p99 gateway':>12}"
    )
    for row in rows:
        print(
            f"{row['concurrency']:>11} {row['straight_median_ms']:>7.3f} ms {row['gateway_median_ms']:>7.3f} ms"
            f" {row['added_median_ms']:>7.3f} ms {row['straight_p99_ms']:>10.3f} ms {row['gateway_p99_ms']:>9.3f} ms"
        )
    print(json.dumps({"bench": "gateway", "rows": rows, "ledger_entries": entries}))


if __name__ == "__main__":
    main()
