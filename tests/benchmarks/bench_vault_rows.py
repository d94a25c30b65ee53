"""Random access to the rows of a dataset much larger than memory should hold: resident memory and rows a second.

    python tests/benchmarks/bench_vault_rows.py [--gib 4] [--rows 10000] [--threads 2] [--dir FOLDER]

Writes a sealed dataset, then opens it in a fresh process that reads rows at random from one reader shared by
threads, cold (the file dropped from the page cache) and warm. Resident memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cloister.datasets.canonical import INDEX, ROWS, DatasetWriter
from cloister.datasets.reader import DatasetReader
from cloister.datasets.rows import Message, Row
from cloister.vault import ObjectWriter

KEY = bytes(range(32))
ROW_BYTES = 4096


def write(folder: Path, size: int) -> int:
    """A dataset of about `size` bytes of rows; returns how many rows."""
    order = random.Random(1)
    writer = ObjectWriter(folder, object_id="ds-000000000000", kind="dataset", key=KEY)
    texts = [order.randbytes(ROW_BYTES // 2).hex() for _ in range(64)]
    with DatasetWriter(writer, holdout=0.0, seed=0) as dataset:
        for first in range(0, size // ROW_BYTES, 1024):
            dataset.add(
                [
                    Row(
                        messages=(
                            Message(role="user", content=str(number)),
                            Message(role="assistant", content=texts[number % 64]),
                        )
                    )
                    for number in range(first, first + 1024)
                ]
            )
        dataset.finish(source_format="jsonl")
    writer.finish(created_at="2026-11-21T00:00:00Z")
    return dataset.rows


def read(folder: Path, rows: int, threads: int) -> None:
    """Rows at random from one shared reader, and what it took, as one JSON object."""
    before = _peak_kib()
    with DatasetReader(folder, key=KEY) as reader:
        wrong: list[int] = []

        def some(turn: int) -> None:
            order = random.Random(turn)
            for _ in range(rows // threads):
                number = order.randrange(len(reader))
                if reader[number].messages[0].content != str(number):
                    wrong.append(number)

        seconds = {}
        for state in ("cold", "warm"):
            if state == "cold":
                _drop(folder)
            start = time.perf_counter()
            running = [threading.Thread(target=some, args=(turn,)) for turn in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            seconds[state] = time.perf_counter() - start
    print(
        json.dumps(
            {
                "wrong": len(wrong),
                "peak_mib": round(_peak_kib() / 1024, 1),
                "imported_mib": round(before / 1024, 1),
                **{f"{state}_rows_per_s": round(rows / spent) for state, spent in seconds.items()},
            }
        )
    )


def _drop(folder: Path) -> None:
    for name in (ROWS, INDEX):
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    options = argparse.ArgumentParser(description="Random access to a large sealed dataset.")
    options.add_argument("--gib", type=float, default=4.0)
    options.add_argument("--rows", type=int, default=10_000)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dir", default=None, help="where the dataset is written; a disk, for cold reads")
    options.add_argument("--read", default=None, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.read:
        read(Path(chosen.read), chosen.rows, chosen.threads)
        return
    with tempfile.TemporaryDirectory(dir=chosen.dir) as name:
        folder = Path(name) / "object"
        start = time.perf_counter()
        rows = write(folder, int(chosen.gib * 2**30))
        written = time.perf_counter() - start
        command = [sys.executable, __file__, "--read", str(folder)]
        command += ["--rows", str(chosen.rows), "--threads", str(chosen.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        size = (folder / ROWS).stat().st_size
    figures = {"bench": "vault_rows", "gib": round(size / 2**30, 2), "rows": rows, **json.loads(done.stdout)}
    print(f"{figures['gib']} GiB in {rows:,} rows, written in {written:.0f} s")
    print(f"{chosen.rows:,} rows at random, {chosen.threads} threads, one reader: {figures['wrong']} wrong")
    print(f"cold {figures['cold_rows_per_s']:,} rows/s, warm {figures['warm_rows_per_s']:,} rows/s")
    print(f"peak resident memory {figures['peak_mib']} MiB (aim: under 300)")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
