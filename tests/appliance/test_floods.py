"""One account asks for all it can, the others are answered all the same: two real accounts at one socket."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.appliance.role_accounts import as_account, made_accounts, needs_root, shared_appliance

from cloister.client import Client

API = {"requests_per_s": 10, "burst": 60, "streams": 8, "connections": 40}
HEAD = "{} HTTP/1.1\r\nHost: authority\r\n{}\r\n"
ASKED = 25


class Flood:
    """Everything at once that one account can send, until it has seen what comes of it and is told to end."""

    def __init__(self, path: Path, end: Path) -> None:
        self.path = path
        self.end = end
        self.kept: list[socket.socket] = []
        self.answers: Counter[str] = Counter()

    def __call__(self) -> dict[str, int]:
        rounds = 0
        while rounds < 1 or not self.end.exists():
            for _ in range(80):
                self.tell("connection", b"")
            time.sleep(0.1)
            for one in self.kept:
                self.look_again(one)
                one.close()
            self.kept.clear()
            time.sleep(0.1)
            for _ in range(12):
                self.tell("stream", HEAD.format("GET /v1/events", "").encode())
            for size in (2 << 20, 1 << 20):
                length = f"content-type: application/json\r\ncontent-length: {size}\r\n"
                self.tell(f"body {size}", HEAD.format("POST /v1/runs", length).encode() + b"[" * size)
            self.tell("head", HEAD.format("GET /v1/status", f"x: {'x' * (1 << 20)}\r\n").encode())
            for _ in range(250):
                self.tell("request", HEAD.format("GET /v1/jobs", "connection: close\r\n").encode())
            rounds += 1
        return dict(self.answers)

    def look_again(self, connection: socket.socket) -> None:
        """A connection that was held on to may have been answered since: a busy machine takes its time."""
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            if b" 429 " in connection.recv(1 << 16)[:16]:
                self.answers["connection: held"] -= 1
                self.answers["connection: 429"] += 1

    def tell(self, what: str, data: bytes) -> None:
        """Send it on a connection of its own, and count what comes back; what does not answer is held on to."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(0.01 if what == "connection" else 60)
        try:
            connection.connect(str(self.path))
            with contextlib.suppress(OSError):  # it may be refused before its end
                connection.sendall(data)
            said = connection.recv(1 << 16)
            while b" 429 " in said[:16] and not said.endswith(b"}"):
                said += connection.recv(1 << 16)
        except OSError as error:
            held = isinstance(error, TimeoutError) and what == "connection"
            self.answers[f"{what}: {'held' if held else 'cut off'}"] += 1
            (self.kept.append if held else socket.socket.close)(connection)
            return
        head, _, body = said.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1].decode() if head else "cut off"
        if status == "429":
            assert b"application/problem+json" in head and b"retry-after" in head
            assert json.loads(body)["code"] == "too-many-requests"
        self.answers[f"{what}: {status}"] += 1
        if status == "200" and what == "stream":
            self.kept.append(connection)
        else:
            connection.close()


def asked(path: Path) -> Any:
    """How long each of some requests for the status took, in milliseconds; every one of them was answered."""
    took = []
    with Client(path) as client:
        for _ in range(ASKED):
            began = time.perf_counter()
            assert client.status().processes
            took.append(1000 * (time.perf_counter() - began))
            time.sleep(0.03)
    return took


@needs_root
def test_a_flood_of_one_account_leaves_the_others_answered() -> None:
    with made_accounts() as accounts, shared_appliance(api=API) as appliance, ThreadPoolExecutor(2) as pool:
        path = appliance.home.authority_socket
        end = appliance.home.root.parent / "end"
        quiet = as_account(accounts["auditor"], lambda: asked(path))
        flood = Flood(path, end)
        flooding = pool.submit(as_account, accounts["trainer"], flood)
        time.sleep(0.5)
        flooded = pool.submit(as_account, accounts["auditor"], lambda: asked(path)).result(120)
        assert not flooding.done() or flooding.result(0)
        end.touch()
        answers = flooding.result(120)
        for what, times in (("quiet", quiet), ("flooded", flooded)):
            print(f"status, {what}: median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms")
        print(f"the flood: {answers}")
        assert len(flooded) == ASKED
        assert answers["request: 429"] > 0 and answers["request: 429"] > answers.get("request: 200", 0)
        assert answers["connection: 429"] > 0 and answers["connection: held"] > 0
        assert answers.get("stream: 429", 0) > 0
        assert not [key for key in answers if key.startswith(("body", "head")) and key.endswith(": 200")]
        assert any(key.startswith("body 2097152: 4") for key in answers)
        assert "head: cut off" in answers
        # Afterwards it is an account like any other.
        assert as_account(accounts["trainer"], lambda: asked(path)[:1])
