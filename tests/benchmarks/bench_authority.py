"""How the authority answers while a run logs: `status` idle, at 100 and at 400 worker events a second.

Authority and launcher run as in the appliance; a small program stands in for the worker. Sides take
turns. Also: `status` while ten consoles follow a run, while another client reads a thousand entries of the
ledger, and while it flushes.
Times are of whole requests on one kept-open connection, in milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cloister import embedded
from cloister.api import DatasetImport, GatewayHello, ImportConfig
from cloister.client import Client
from cloister.home import Home

PROGRAM = """
import json, sys, time
from pathlib import Path
job = json.load(sys.stdin)
rate = Path(__file__).parent / "rate"
step, due = 0, time.monotonic()
while True:
    wanted = float(rate.read_text() or 0)
    if not wanted:
        time.sleep(0.05)
        due = time.monotonic()
        continue
    step += 1
    values = {"loss": 1.0 / step, "learning_rate": 1e-3, "tokens_per_s": 1e3}
    print(json.dumps({"event": "metrics", "step": step, "values": values}), flush=True)
    due += 1 / wanted
    time.sleep(max(0.0, due - time.monotonic()))
"""
PASSPHRASE = "correct horse battery staple"


@contextlib.contextmanager
def appliance() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        home = Home(Path(folder))
        home.make()
        home.settings_file.write_text("sandbox: none\nunencrypted_swap: allow\n")
        (home.root / "program.py").write_text(PROGRAM)
        (home.root / "rate").write_text("0")
        launcher = subprocess.Popen(
            [
                *(sys.executable, "-m", "cloister.launcher", "--home", str(home.root), "--sandbox", "none"),
                *("--program", sys.executable, str(home.root / "program.py")),
            ]
        )
        try:
            while not embedded.listener_pid(home.launcher_socket):
                time.sleep(0.02)
            embedded.start(home, gateway=False)
            yield home
        finally:
            embedded.stop(home)
            launcher.wait(30)


def start_worker(home: Home, client: Client) -> str:
    source = os.open(os.devnull, os.O_RDONLY)
    request = DatasetImport(name="slow", config=ImportConfig(source_name="rows.jsonl"))
    job = client.import_dataset(request, {"source": source})
    os.close(source)
    while client.job(job.job_id).state != "running":
        time.sleep(0.05)
    return job.job_id


FOLLOW = """
import sys, threading
from pathlib import Path
from cloister.client import Client

def follow():
    with Client(Path(sys.argv[1])) as client:
        print("follows", flush=True)
        for event in client.events():
            pass

for _ in range(int(sys.argv[2])):
    threading.Thread(target=follow, daemon=True).start()
threading.Event().wait()
"""


@contextlib.contextmanager
def followed(home: Home, consoles: int) -> Iterator[None]:
    """So many consoles follow the stream of events, in a process of their own."""
    command = [sys.executable, "-c", FOLLOW, str(home.authority_socket), str(consoles)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for _ in range(consoles):
            process.stdout.readline()
        time.sleep(2)  # until they have read what there is
        yield
    finally:
        process.kill()
        process.wait()


def latencies(client: Client, requests: int) -> list[float]:
    found = []
    for _ in range(requests):
        begun = time.perf_counter()
        client.status()
        found.append((time.perf_counter() - begun) * 1e3)
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def beside(home: Home, work: Callable[[Client], object]) -> Iterator[None]:
    """Another client that does `work` again and again meanwhile."""
    ended = threading.Event()

    def again() -> None:
        with Client(home.authority_socket) as client:
            while not ended.is_set():
                work(client)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def figures(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99) - 1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=150)
    options = parser.parse_args()
    sides: dict[str, list[float]] = {"idle": [], "100/s": [], "400/s": [], "entries": [], "flush": []}
    sides["ten consoles"] = []
    with appliance() as home, Client(home.authority_socket) as client:
        client.initialise(PASSPHRASE)
        for number in range(1000):  # a ledger to read
            client._send("/v1/gateway/hello", _hello(number))
        job_id = start_worker(home, client)
        taken = 0
        for _ in range(options.rounds):
            for rate in (0, 100, 400):
                (home.root / "rate").write_text(str(rate))
                time.sleep(0.2)
                before = client.status().last_seq
                sides[f"{rate}/s" if rate else "idle"] += latencies(client, options.requests)
                taken += client.status().last_seq - before
            (home.root / "rate").write_text("10")
            with followed(home, 10):
                sides["ten consoles"] += latencies(client, options.requests)
            (home.root / "rate").write_text("0")
            time.sleep(0.5)
            with beside(home, lambda other: other.entries(0, 1000)):
                sides["entries"] += latencies(client, options.requests)
            with beside(home, _enter_and_flush):
                sides["flush"] += latencies(client, options.requests)
        client.cancel_job(job_id)
    result = {name: figures(times) for name, times in sides.items()}
    for name, values in result.items():
        print(f"{name:>12}: median {values['median_ms']:6.2f} ms, 99th percentile {values['p99_ms']:6.2f} ms")
    ratio = result["100/s"]["median_ms"] / result["idle"]["median_ms"]
    print(f"{taken} events; at 100 events a second a status takes {ratio:.2f} times as long as idle")
    print(
        json.dumps({"benchmark": "authority", "latency": result, "events": taken, "ratio": round(ratio, 3)})
    )


def _enter_and_flush(client: Client) -> None:
    client._send("/v1/gateway/hello", _hello(0))
    client.flush_ledger()


def _hello(number: int) -> GatewayHello:
    return GatewayHello(pid=os.getpid(), url=f"http://127.0.0.1:{8000 + number}")


if __name__ == "__main__":
    main()
