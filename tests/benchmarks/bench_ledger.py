"""Durable appends a second and their latency, beside bare group commit; proofs and verification of a large log.

Bare group commit is the limit: the same threads hand the same bytes to one thread that writes them to a
preallocated file and syncs, with no hashing, no tree and no signature. The limit of full verification is bare
hashing of the same bundles into the root, nothing compared. Both sides run in turn, several times;
the ratio is that of the medians. Options: --folder (on the disk to measure), --seconds, --rounds, --entries.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister import verifier
from cloister.ledger import Entry, Ledger, merkle
from cloister.ledger.proof import prove
from cloister.ledger.tiles import WIDTH, TileStore

ORIGIN = "bench.test/ledger"
ENTRY = Entry(
    time="2026-11-21T11:00:00.000000Z",
    actor="client:cl-000000000000",
    identified_by="api-key",
    action="request.intent",
    objects=("dp-000000000000", "mm-000000000000"),
    digests={"prompt": "ab" * 32, "manifest": "cd" * 32},
    policy="ef" * 32,
    decision="allow",
    details={"max_tokens": 256, "stream": True, "bytes": 1234},
)


class BareGroupCommit:
    """What a durable append costs at least: hand over, write, fdatasync, wake."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "bare", os.O_RDWR | os.O_CREAT, 0o600)
        self._size = 64 << 20
        os.posix_fallocate(self._file, 0, self._size)
        os.fsync(self._file)
        self._queue: SimpleQueue[tuple[bytes, Callable[[], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def append(self, data: bytes) -> None:
        gate = threading.Lock()
        gate.acquire()
        self._queue.put((data, gate.release))
        gate.acquire()

    def _run(self) -> None:
        offset = 0
        while item := self._queue.get():
            batch = [item]
            while self._queue.qsize() and (item := self._queue.get()):
                batch.append(item)
            data = b"".join([data for data, _ in batch])
            if offset + len(data) > self._size:
                offset = 0
            os.pwrite(self._file, data, offset)
            os.fdatasync(self._file)
            offset += len(data)
            for _, release in batch:
                release()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        os.close(self._file)


def measure(append: Callable[[], object], threads: int, seconds: float) -> dict[str, float]:
    """Appends a second and latency in ms, from that many threads."""
    latencies: list[list[float]] = [[] for _ in range(threads)]
    stop = time.perf_counter() + seconds

    def work(mine: list[float]) -> None:
        now = time.perf_counter()
        while now < stop:
            append()
            before, now = now, time.perf_counter()
            mine.append(now - before)

    workers = [threading.Thread(target=work, args=(mine,)) for mine in latencies]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - begun
    all_ = sorted(latency for mine in latencies for latency in mine)
    return {
        "per_s": len(all_) / elapsed,
        "p50_ms": 1e3 * all_[len(all_) // 2],
        "p99_ms": 1e3 * all_[int(len(all_) * 0.99)],
        "max_ms": 1e3 * all_[-1],
    }


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def bench_appends(folder: Path, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    record = ENTRY.canonical()
    results: dict[str, dict[str, float]] = {}
    print(f"entry of {len(record)} bytes; {rounds} rounds of {seconds:g} s each side")
    for threads in (1, 10, 100):
        ours: list[dict[str, float]] = []
        bare: list[dict[str, float]] = []
        for number in range(rounds):
            limit = BareGroupCommit(folder)
            bare.append(measure(lambda limit=limit: limit.append(record), threads, seconds))  # type: ignore[misc]
            limit.close()
            signer = Ed25519PrivateKey.generate()
            ledger = Ledger.open(folder / f"log-{threads}-{number}", origin=ORIGIN, signer=signer)
            ours.append(measure(lambda ledger=ledger: ledger.append(ENTRY), threads, seconds))  # type: ignore[misc]
            ledger.close()
            shutil.rmtree(ledger.root)
        for name, result in ((f"ledger_{threads}", median(ours)), (f"bare_{threads}", median(bare))):
            results[name] = result
            print(
                f"  {name:12} {result['per_s']:9.0f}/s   p50 {result['p50_ms']:7.3f} ms   "
                f"p99 {result['p99_ms']:7.3f} ms   max {result['max_ms']:7.2f} ms"
            )
        ratio = results[f"ledger_{threads}"]["per_s"] / results[f"bare_{threads}"]["per_s"]
        print(f"  {threads} writers: {ratio:.2f} of bare group commit")
    return results


def bare_root(root: Path, entries: int) -> bytes:
    """The other side of verification: read the entries, hash them into the root, compare nothing."""
    peaks = merkle.Peaks()
    store = TileStore(root)
    for index in range((entries + WIDTH - 1) // WIDTH):
        width = min(WIDTH, entries - index * WIDTH)
        leaves = [merkle.leaf_hash(entry) for entry in store.entries(index, width)]
        if width == WIDTH:
            peaks.push(merkle.perfect_root(leaves), 8)
        else:
            for leaf in leaves:
                peaks.push(leaf)
    return peaks.root()


def bench_large(folder: Path, entries: int, rounds: int) -> dict[str, float]:
    """Proofs and full verification of a log of that many entries."""
    signer = Ed25519PrivateKey.generate()
    root = folder / "large"
    ledger = Ledger.open(root, origin=ORIGIN, signer=signer)
    begun = time.perf_counter()
    last = None
    for number in range(entries):
        last = ledger.submit(ENTRY)
        if number % 2000 == 1999:
            last.result()
    assert last is not None
    last.result()
    written = time.perf_counter() - begun
    ledger.flush()
    head = ledger.head()
    leaf = merkle.leaf_hash(ENTRY.canonical())
    times = []
    for number in range(200):
        index = number * (entries - 1) // 199
        begun = time.perf_counter()
        proof = ledger.inclusion_proof(index, entries)
        times.append(time.perf_counter() - begun)
        verifier.verify_inclusion(index, entries, leaf, proof, head.root)
    ledger.close()
    key = verifier.parse_vkey(str(ledger_key(signer)))
    made, checked = [], []
    for number in range(200):
        begun = time.perf_counter()
        text = prove(root, number * (entries - 1) // 199)
        made.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        verifier.verify_proof(text.encode(), [key])
        checked.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    Ledger.open(root, origin=ORIGIN, signer=signer).close()
    opened = time.perf_counter() - begun
    sides: dict[str, list[float]] = {"verify": [], "bare": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        report = verifier.verify_log(root, str(key))
        sides["verify"].append(time.perf_counter() - begun)
        assert report.ok
        assert report.signed == entries
        begun = time.perf_counter()
        assert bare_root(root, entries) == head.root
        sides["bare"].append(time.perf_counter() - begun)
    verified, bare = (statistics.median(sides[name]) for name in ("verify", "bare"))
    result = {
        "entries": entries,
        "submit_per_s": entries / written,
        "path_ms": 1e3 * statistics.median(times),
        "proof_ms": 1e3 * statistics.median(made),
        "proof_p99_ms": 1e3 * sorted(made)[int(len(made) * 0.99)],
        "check_proof_ms": 1e3 * statistics.median(checked),
        "open_s": opened,
        "verify_per_s": entries / verified,
        "verify_of_bare": bare / verified,
    }
    print(
        f"  {entries} entries: {result['submit_per_s']:.0f}/s through futures of one thread, opening "
        f"{opened:.2f} s\n  proof with its tree head: made in {result['proof_ms']:.2f} ms "
        f"(p99 {result['proof_p99_ms']:.2f}), checked in {result['check_proof_ms']:.2f} ms\n"
        f"  full verification {result['verify_per_s']:.0f}/s, {result['verify_of_bare']:.2f} of bare hashing "
        f"of the same bundles ({entries / bare:.0f}/s)"
    )
    return result


def ledger_key(signer: Ed25519PrivateKey) -> object:
    from cloister.ledger.note import VerifierKey

    return VerifierKey.of(ORIGIN, signer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="a folder on the disk to measure")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".bench-ledger-") as name:
        results: dict[str, dict[str, float]] = bench_appends(Path(name), options.seconds, options.rounds)
        results["large"] = bench_large(Path(name), options.entries, options.rounds)
    ratios = {
        f"ratio_{threads}": results[f"ledger_{threads}"]["per_s"] / results[f"bare_{threads}"]["per_s"]
        for threads in (1, 10, 100)
    }
    ratios["ratio_verify"] = results["large"]["verify_of_bare"]
    print(json.dumps({"bench": "ledger", **ratios, **results}))


if __name__ == "__main__":
    main()
