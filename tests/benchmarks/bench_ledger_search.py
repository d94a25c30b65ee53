"""Searching a large ledger through its index, beside reading every entry of it; both give the same answer.

Options: --folder (on the disk to measure), --entries, --rounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloister.ledger import Entry
from cloister.ledger.index import Index
from cloister.ledger.merkle import leaf_hash
from cloister.ledger.query import Answer, Query, search
from cloister.ledger.reading import CheckedReader, Snapshot
from cloister.ledger.tiles import TileStore, Tree

ORIGIN = "bench.test/ledger"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def entry(number: int) -> bytes:
    """One of many requests; now and then an operator does something."""
    rare = number % 50_021 == 50_020
    return Entry(
        time=(BEGIN + timedelta(seconds=number)).isoformat(timespec="milliseconds"),
        actor="alice" if rare else f"cl-{number % 40:012d}",
        identified_by="SO_PEERCRED uid=1000" if rare else "api-key",
        action="deployment.stop" if rare else ("inference.intent", "inference.completion")[number % 2],
        objects=(f"dp-{number // 100_000:012d}", "mm-000000000000"),
        decision="allow",
        details={"request_id": f"req-{number // 2:x}", "status": 200},
    ).canonical()


def build(root: Path, count: int) -> Tree:
    """The tree of that many entries, written without a journal."""
    tree = Tree(TileStore(root))
    for first in range(0, count, 25_600):
        entries = [entry(number) for number in range(first, min(first + 25_600, count))]
        tree, _ = tree.grow(entries, [leaf_hash(one) for one in entries])
    return tree


def timed(reader: CheckedReader, index: Index | None, query: Query) -> tuple[float, Answer]:
    begun = time.perf_counter()
    answer = search(reader, index, query, 50)
    return time.perf_counter() - begun, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-search", dir=arguments.folder))
    try:
        tree = build(folder / "log", arguments.entries)
        reader = CheckedReader(Snapshot(tree))
        index = Index(folder / "log.index", ORIGIN)
        begun = time.perf_counter()
        index.catch_up(reader)
        built_s = time.perf_counter() - begun
        index.close()
        begun = time.perf_counter()
        index.bundles(reader)
        opened_s = time.perf_counter() - begun
        size = sum(path.stat().st_size for path in folder.glob("log.index*"))
        print(
            f"{arguments.entries} entries: index built in {built_s:.1f} s, opened and checked in "
            f"{opened_s:.2f} s, {size / 1e6:.1f} MB"
        )
        middle = BEGIN + timedelta(seconds=arguments.entries // 3)
        questions = {
            "a rare actor": Query(actor="alice"),
            "actor, action and time": Query(
                actor="cl-000000000007",
                action="inference.c*",
                until=middle,
                since=middle - timedelta(hours=1),
            ),
            "an object of long ago": Query(object="dp-000000000000"),
            "nothing": Query(actor="nobody", action="inference.intent"),
        }
        result: dict[str, object] = {"entries": arguments.entries, "build_s": built_s, "open_s": opened_s}
        for name, query in questions.items():
            times = []
            for _ in range(arguments.rounds):
                fresh = CheckedReader(Snapshot(tree))  # nothing checked before
                took, answer = timed(fresh, index, query)
                times.append(took)
            indexed_s = statistics.median(times)
            full_s, whole = timed(CheckedReader(Snapshot(tree)), None, query)
            assert answer.matches == whole.matches
            ratio = full_s / indexed_s
            print(
                f"  {name:24} {1e3 * indexed_s:8.2f} ms, {answer.read} bundles read, {len(answer.matches)} "
                f"found; without the index {1e3 * full_s:8.1f} ms: {ratio:.0f} times faster"
            )
            result[name.replace(" ", "_").replace(",", "")] = {
                "indexed_ms": 1e3 * indexed_s,
                "full_ms": 1e3 * full_s,
                "ratio": ratio,
            }
        print(json.dumps(result))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
