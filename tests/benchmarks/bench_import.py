"""Importing JSON lines against what reading and AES-GCM alone take, on the same generated file.

    python tests/benchmarks/bench_import.py [--mib 256]

Prints MB/s of source for: reading and sealing in memory, reading and writing one sealed file, the
import of chat rows, and the import of the same rows as CSV; each import as a ratio to the first.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.cobblestone import Cobblestone256Encryptor

from cloister.api import ColumnMap, ImportConfig
from cloister.datasets import import_rows
from cloister.vault import ObjectWriter, SealedWriter

BLOCK = 1 << 20
ROUNDS = 3
WORDS = [line for line in Path(__file__).read_text().split() if line.isalpha()]


def generate(folder: Path, mib: int) -> tuple[Path, Path]:
    """The same rows as chat JSON lines (about `mib` MiB, 600 bytes a row) and as CSV."""
    rng = random.Random(0)
    pairs = [
        (" ".join(rng.choices(WORDS, k=rng.randint(40, 120))), " ".join(rng.choices(WORDS, k=8)))
        for _ in range(20_000)
    ]
    lines = io.StringIO()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    for question, answer in pairs:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.write(json.dumps({"messages": turns}) + "\n")
        writer.writerow([question, answer])
    block, cells = lines.getvalue().encode(), table.getvalue().encode()
    times = max(1, (mib << 20) // len(block))
    chat, sheet = folder / "rows.jsonl", folder / "rows.csv"
    chat.write_bytes(block * times)
    sheet.write_bytes(b"text,answer\n" + cells * times)
    return chat, sheet


def read_and_seal(source: Path, folder: Path) -> None:
    encryptor = Cobblestone256Encryptor(os.urandom(32), b"bench")
    buffer, out = memoryview(bytearray(BLOCK)), bytearray(2 * BLOCK)
    with source.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            encryptor.update_into(buffer[:count], out)
    encryptor.finalize()


def read_and_write_sealed(source: Path, folder: Path) -> None:
    buffer = memoryview(bytearray(BLOCK))
    with (
        source.open("rb", buffering=0) as file,
        SealedWriter(folder / "sealed", os.urandom(32), b"bench") as out,
    ):
        while count := file.readinto(buffer):
            out.write(buffer[:count])


def import_file(source: Path, folder: Path) -> None:
    columns = ColumnMap(input="text", output="answer") if source.suffix == ".csv" else None
    writer = ObjectWriter(folder, object_id="ds-000000000001", kind="dataset", key=os.urandom(32))
    config = ImportConfig(source_name=source.name, columns=columns)
    with source.open("rb", buffering=0) as file:
        import_rows(file, config, writer, report=print, progress=lambda done, total: None)
    writer.finish(created_at="2026-01-01T00:00:00Z")


def rate(work: Callable[[Path, Path], None], source: Path) -> float:
    """The best of some rounds, in MB of source a second."""
    best = 0.0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            work(source, Path(folder))
            best = max(best, source.stat().st_size / (time.perf_counter() - start) / 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=256)
    size = parser.parse_args().mib
    with tempfile.TemporaryDirectory() as folder:
        chat, sheet = generate(Path(folder), size)
        limit = rate(read_and_seal, chat)
        figures = {
            "read_and_seal": limit,
            "read_and_write_sealed": rate(read_and_write_sealed, chat),
            "import_jsonl": rate(import_file, chat),
            "import_csv": rate(import_file, sheet),
        }
    for name, value in figures.items():
        print(f"{name:24} {value:8.0f} MB/s   {value / limit:6.3f} of reading and AES-GCM")
    print(json.dumps({"benchmark": "import", "mib": size, **{k: round(v, 1) for k, v in figures.items()}}))


if __name__ == "__main__":
    main()
