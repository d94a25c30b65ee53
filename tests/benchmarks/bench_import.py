"""Importing each format against what reading and AES-GCM alone take, on the same generated rows.

    python tests/benchmarks/bench_import.py [--mib 128]

Prints MB/s for: reading and sealing in memory, reading and writing one sealed file (what JSON lines are held
against), and importing the rows as chat JSON lines and CSV (by one process and by one a core), JSON array, packed JSON
lines, Parquet (of texts and of chats) and plain text. The megabytes are always those of the JSON lines, so figures
compare rows. CSV and Parquet are bounded by their parsers, whose own rates are printed. What the readers of JSON lines
(parsing, rules, the hash of the split, encoding) and their writer (dealing out, sealing, hashing, writing) manage for
each second of processor time tells which of them more cores would wait for.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from cryptography.cobblestone import Cobblestone256Encryptor

from cloister.api import ColumnMap, ImportConfig
from cloister.datasets import import_rows
from cloister.vault import ObjectWriter, SealedWriter

BLOCK = 1 << 20
ROUNDS = 3
CORES = len(os.sched_getaffinity(0))
WORDS = [line for line in Path(__file__).read_text().split() if line.isalpha()]


def generate(folder: Path, mib: int) -> dict[str, Path]:
    """The same rows in every format (about `mib` MiB of chat JSON lines, 600 bytes a row)."""
    rng = random.Random(0)
    pairs = [
        (" ".join(rng.choices(WORDS, k=rng.randint(40, 120))), " ".join(rng.choices(WORDS, k=8)))
        for _ in range(20_000)
    ]
    rows = [
        json.dumps(
            {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        )
        for asked, answer in pairs
    ]
    cells = io.StringIO()
    csv.writer(cells, lineterminator="\n").writerows(pairs)
    block = ("\n".join(rows) + "\n").encode()
    times = max(1, (mib << 20) // len(block))
    made = {
        "jsonl": block * times,
        "json": b"[" + b",\n".join([",\n".join(rows).encode()] * times) + b"]",
        "csv": b"text,answer\n" + cells.getvalue().encode() * times,
        "text": "".join(f"{asked}\n{answer}\n\n" for asked, answer in pairs).encode() * times,
    }
    made["gzip"] = gzip.compress(made["jsonl"], 6)
    made["zstd"] = zstandard.compress(made["jsonl"], 3)
    files = {name: folder / f"rows.{name}" for name in (*made, "parquet", "chats")}
    for name, data in made.items():
        files[name].write_bytes(data)
    tables = {
        "parquet": pa.table(
            {"text": [asked for asked, _ in pairs], "answer": [answer for _, answer in pairs]}
        ),
        "chats": pa.Table.from_pylist([json.loads(row) for row in rows]),
    }
    for name, table in tables.items():
        with pq.ParquetWriter(files[name], table.schema, compression="zstd") as writer:
            for _ in range(times):
                writer.write_table(table)
    return files


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


def parse_csv(source: Path, folder: Path) -> None:
    with source.open(newline="") as file:
        for _ in csv.reader(file):
            pass


def parse_parquet(source: Path, folder: Path) -> None:
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=1024, use_threads=False):
            batch.to_pylist()


def import_file(source: Path, folder: Path, processes: int = 1) -> None:
    mapped = source.suffix in (".csv", ".parquet")
    columns = ColumnMap(input="text", output="answer") if mapped else None
    writer = ObjectWriter(folder, object_id="ds-000000000001", kind="dataset", key=os.urandom(32))
    config = ImportConfig(source_name=source.name, columns=columns)
    with source.open("rb", buffering=0) as file:
        import_rows(
            file, config, writer, report=print, progress=lambda done, total: None, processes=processes
        )
    writer.finish(created_at="2026-01-01T00:00:00Z")


def rate(work: Callable[[Path, Path], None], source: Path, size: int) -> float:
    """The best of some rounds, in MB a second of `size` bytes."""
    best = 0.0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            work(source, Path(folder))
            best = max(best, size / (time.perf_counter() - start) / 1e6)
    return best


def processor_rates(source: Path, size: int) -> dict[str, float]:
    """MB for each second of processor time that JSON lines take of their readers and of their writer."""
    best = {"jsonl_readers_a_core": 0.0, "jsonl_writer_a_core": 0.0}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            before = os.times()
            import_file(source, Path(folder), max(2, CORES))
            after = os.times()
        readers = sum(after[2:4]) - sum(before[2:4])
        writer = sum(after[:2]) - sum(before[:2])
        for name, seconds in zip(best, (readers, writer), strict=True):
            best[name] = max(best[name], size / seconds / 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=128)
    mib = parser.parse_args().mib
    with tempfile.TemporaryDirectory() as folder:
        files = generate(Path(folder), mib)
        size = files["jsonl"].stat().st_size
        figures = {
            "read_and_seal": rate(read_and_seal, files["jsonl"], size),
            "read_and_write_sealed": rate(read_and_write_sealed, files["jsonl"], size),
            "import_jsonl": rate(partial(import_file, processes=CORES), files["jsonl"], size),
            "import_jsonl_one_process": rate(import_file, files["jsonl"], size),
            "import_gzip": rate(partial(import_file, processes=CORES), files["gzip"], size),
            "import_zstd": rate(partial(import_file, processes=CORES), files["zstd"], size),
            "import_json_array": rate(import_file, files["json"], size),
            "import_csv": rate(partial(import_file, processes=CORES), files["csv"], size),
            "import_csv_one_process": rate(import_file, files["csv"], size),
            "parse_csv_alone": rate(parse_csv, files["csv"], size),
            "import_parquet": rate(import_file, files["parquet"], size),
            "parse_parquet_alone": rate(parse_parquet, files["parquet"], size),
            "import_parquet_chats": rate(import_file, files["chats"], size),
            "import_text": rate(import_file, files["text"], size),
            **processor_rates(files["jsonl"], size),
        }
    limit = figures["read_and_write_sealed"]
    for name, value in figures.items():
        print(f"{name:26} {value:8.0f} MB/s   {value / limit:6.3f} of reading, AES-GCM and writing")
    ratios = {"jsonl_of_limit": round(figures["import_jsonl"] / limit, 3)}
    ratios["processes_gain"] = round(figures["import_jsonl"] / figures["import_jsonl_one_process"], 2)
    rounded = {k: round(v, 1) for k, v in figures.items()}
    print(json.dumps({"benchmark": "import", "mib": mib, "cores": CORES, **rounded, **ratios}))


if __name__ == "__main__":
    main()
