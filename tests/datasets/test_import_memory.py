"""Importing in bounded memory: endless lines, endless files, endless problems, through a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

MIB = 1 << 20
CHILD = textwrap.dedent(
    """
    import json, os, sys, tempfile
    from pathlib import Path
    from cloister.api import ImportConfig
    from cloister.datasets import import_rows
    from cloister.errors import InvalidInput
    from cloister.vault import ObjectWriter

    # Not ru_maxrss: that begins with what the process had in memory that started this one.
    peak = lambda: next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    before = peak()
    told = []
    with tempfile.TemporaryDirectory() as folder:
        writer = ObjectWriter(Path(folder), object_id="ds-000000000001", kind="dataset", key=os.urandom(32))
        config = ImportConfig(source_name="big", **json.loads(sys.argv[1]))
        keep = lambda problem: told.append(problem.format("big")) if len(told) < 3 else None
        try:
            with os.fdopen(0, "rb", buffering=0) as source:
                summary = import_rows(source, config, writer, report=keep, progress=lambda d, t: None)
            values = {"rows": summary.rows, "holdout": summary.holdout_rows}
        except InvalidInput as error:
            values = {**error.values, "message": str(error)}
    print(json.dumps({"told": told, "grown": peak() - before, **values}))
    """
)


def run(pieces: Iterator[bytes], **config: object) -> dict[str, object]:
    """Import what `pieces` yield, in a process of its own, through a pipe."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        for piece in pieces:
            child.stdin.write(piece)
        child.stdin.close()
    except BrokenPipeError:
        pass
    out = child.stdout.read()
    assert child.wait() == 0
    return json.loads(out)


def repeated(piece: bytes, times: int, *, start: bytes = b"", end: bytes = b"") -> Iterator[bytes]:
    yield start
    for _ in range(times):
        yield piece
    yield end


def one_line(mib: int) -> None:
    got = run(repeated(b"x" * MIB, mib, start=b'{"messages":[{"role":"user","content":"'))
    assert got["told"] == ["big:1: row: longer than 1048576 bytes"]
    assert "1 of 1 rows are bad" in str(got["message"])
    assert int(str(got["grown"])) < 48 * MIB


def test_one_line_of_300_mb_is_refused_in_bounded_memory():
    one_line(300)


@pytest.mark.soak
@pytest.mark.slow
def test_one_line_of_10_gb_is_refused_in_bounded_memory():
    one_line(10_240)


def test_an_open_quote_before_10_mb_is_refused_in_bounded_memory():
    lines = b"".join(b"line %d, of many\n" % n for n in range(60_000))
    got = run(
        repeated(lines, 10 * MIB // len(lines), start=b'text,category\n"'),
        columns={"input": "text", "label": "category"},
    )
    assert got["told"][0] == "big:2: row: longer than 1048576 bytes (is a quote never closed?)"
    assert int(str(got["grown"])) < 48 * MIB


def test_the_rest_of_the_file_is_read_after_an_endless_line():
    row = b'\n{"prompt":"a","completion":"b"}\n'
    got = run(repeated(b"\0" * MIB, 50, start=row, end=row), max_dropped=1)
    assert got["rows"] == 2
    assert got["told"] == ["big:3: row: longer than 1048576 bytes"]


def test_memory_does_not_grow_with_rows_or_problems():
    good = b"".join(b'{"prompt":"question %d","completion":"answer"}\n' % n for n in range(20_000))
    bad = b'{"prompt":"","completion":"answer"}\n' * 20_000
    short, long = (run(repeated(good, times)) for times in (2, 10))
    assert long["rows"] == 200_000
    assert int(str(long["grown"])) - int(str(short["grown"])) < 12 * MIB
    refused = run(repeated(bad, 8))
    assert refused["problems"] == 160_000
    assert int(str(refused["grown"])) < int(str(short["grown"])) + 12 * MIB


def test_waiting_for_a_second_side_costs_one_byte_a_row():
    same = b'{"prompt":"question","completion":"answer"}\n' * 20_000
    other = b'{"prompt":"another","completion":"answer"}\n'
    got = run(repeated(same, 8, end=other), holdout=0.5, seed=3)
    assert got["rows"] == 160_001
    assert got["holdout"] in (1, 160_000)
