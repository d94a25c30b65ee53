"""Lines read by several processes: the same rows, problems and sides as by one, and a crash that is told."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import signal

import pytest
from tests.children import children

from cloister.api import ImportConfig
from cloister.datasets import DatasetReader, import_rows
from cloister.datasets.blocks import Block, Blocks
from cloister.datasets.canonical import EncodedRows, decoded
from cloister.datasets.problems import ProblemLog, Unreadable
from cloister.datasets.rows import Row
from cloister.datasets.side_by_side import LEAST, SideBySide
from cloister.errors import InvalidInput
from cloister.vault import ObjectWriter


def lines(*, bad: bool) -> bytes:
    rng = random.Random(5)
    made, size = [], 0
    while size < LEAST + (1 << 20):
        text = f"{rng.random()} " * rng.randint(1, 120)
        line = json.dumps({"text": text, "cat": f"c{rng.randrange(5)}", "site": "x"}).encode()
        if bad and rng.random() < 0.01:
            line = rng.choice(
                [b"{}", b"[", b'{"text": "\xff"}', b"", b"x" * 3000, line.replace(b'"c', b'"', 1)]
            )
        made.append(line)
        size += len(line) + 1
    return b"\n".join(made)


def table(*, bad: str = "") -> bytes:
    """Cells over several lines, so that blocks end inside records; and what makes some pieces doubtful."""
    rng = random.Random(6)
    made, size = ["text,cat,site"], 0
    while size < LEAST + (1 << 20):
        text = f"{rng.random()}\n, quoted " * rng.randint(1, 60)
        made.append(f'"{text}",c{rng.randrange(5)},x')
        if bad and rng.random() < 0.002:
            made.append(bad)
        size += len(made[-1]) + 1
    return "\r\n".join(made).encode()


def imported(folder, data: bytes, processes: int, max_row_bytes: int = 2600, **more: object):
    key = bytes(32)
    problems: list[object] = []
    writer = ObjectWriter(folder, object_id="ds-000000000001", kind="dataset", key=key)
    columns = {"input": "text", "label": "cat", "groups": ["site"]}
    config = ImportConfig(source_name="f", columns=columns, max_row_bytes=max_row_bytes, holdout=0.3, **more)
    summary = import_rows(
        io.BytesIO(data),
        config,
        writer,
        report=problems.append,
        progress=lambda d, t: None,
        processes=processes,
    )
    writer.finish(created_at="2026-01-01T00:00:00Z")
    with DatasetReader(folder, key=key) as reader:
        return summary, problems, reader.meta, list(reader.rows()), list(reader.indices("holdout"))


@pytest.mark.parametrize("bad", [False, True])
def test_several_processes_make_what_one_makes(tmp_path, bad):
    data = lines(bad=bad)
    alone = imported(tmp_path / "one", data, 1, max_dropped=10_000)
    beside = imported(tmp_path / "three", data, 3, max_dropped=10_000)
    assert alone == beside
    assert bool(alone[1]) is bad
    assert len(alone[3]) > 1000


@pytest.mark.parametrize(
    ("bad", "limit", "problems"),
    [
        ("", 1 << 20, False),
        ("\r\n", 1 << 20, False),
        (",,\r\n,,", 1 << 20, False),
        ('half a "pair,c1,x', 1 << 20, False),
        ("too,few", 1 << 20, True),
        ("nul\0,c1,x", 1 << 20, True),
        ("x" * 5000 + ",c1,x", 3100, True),
        ('"ends wrong" here,c1,x', 1 << 20, True),
    ],
)
def test_several_processes_read_a_table_as_one_does(tmp_path, bad, limit, problems):
    data = table(bad=bad)
    alone = imported(tmp_path / "one", data, 1, limit, max_dropped=10_000)
    beside = imported(tmp_path / "three", data, 3, limit, max_dropped=10_000)
    assert alone == beside
    assert bool(alone[1]) is problems
    assert len(alone[3]) > 1000


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("amount", [0, 1, 2, 4, 30])
def test_what_a_doubtful_block_takes_of_what_follows_is_not_read_again(count, amount):
    def read(block: Block, problems: ProblemLog) -> list[Row] | None:
        return None if block.line % 5 == 2 else [Row(text=str(block.line))]

    def exactly(block, following):
        taken = [block, *itertools.islice(following, amount)]
        yield [Row(text=" ".join(str(one.line) for one in taken))]

    beside = SideBySide(read, count, seed=None)
    blocks = (Block(line, b"x") for line in range(1, 21))
    batches = list(beside.rows(blocks, exactly, ProblemLog(print)))
    rows = [row for some in batches for row in (decoded(some) if isinstance(some, EncodedRows) else some)]
    assert " ".join(row.text for row in rows).split() == [str(line) for line in range(1, 21)]


def test_problems_refuse_whoever_finds_them(tmp_path):
    with pytest.raises(InvalidInput, match="rows are bad"):
        imported(tmp_path / "x", lines(bad=True), 2)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_reader_that_crashes_is_told_by_its_line(number):
    def read(block: Block, problems: ProblemLog) -> list[Row]:
        if block.line > 1:
            os.kill(os.getpid(), number)
        return [Row(text="one")]

    beside = SideBySide(read, 2, seed=None)
    blocks = Blocks(io.BytesIO(b"a\n" * 1000), 100, read_size=1000)
    rows = beside.rows(iter(blocks), lambda block, following: iter(()), ProblemLog(lambda problem: None))
    assert len(next(rows)) == 1
    with pytest.raises(Unreadable) as broken:
        list(rows)
    assert broken.value.line == 501


def test_children_end_with_whoever_made_them():
    others = children()
    beside = SideBySide(lambda block, problems: [], 3, seed=1)
    assert len(children() - others) == 3
    beside.close()
    assert not children() - others
