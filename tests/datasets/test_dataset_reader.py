"""The stored dataset: nothing of it in the open, every row by number, and damage is named."""

from __future__ import annotations

import json

import pytest

from cloister.datasets import DatasetReader
from cloister.errors import InvalidInput, Tampered
from cloister.vault import ObjectWriter

CANARY = "canary-8c1f"


def rows(count: int) -> bytes:
    return b"".join(
        json.dumps({"prompt": f"{CANARY} {n} " + "x" * (n % 97), "completion": f"answer {n}"}).encode()
        + b"\n"
        for n in range(count)
    )


def test_rows_by_number_and_by_side(bring_in):
    reader = bring_in(rows(9000), holdout=0.2).reader
    assert len(reader) == 9000
    assert reader[-1].answer == "answer 8999"
    assert reader[4711].messages[0].content.startswith(f"{CANARY} 4711 ")
    with pytest.raises(IndexError):
        reader[9000]
    for side in ("train", "holdout"):
        numbers = reader.indices(side)
        assert [row.answer for row in reader.rows(side)] == [f"answer {n}" for n in numbers]
    assert len(reader.indices("all")) == 9000
    assert reader.meta.holdout_rows == len(reader.indices("holdout"))


def test_nothing_lies_in_the_open(bring_in):
    folder = bring_in(rows(50)).folder
    files = list(folder.rglob("*"))
    assert {path.name for path in files} == {
        "rows.bin",
        "index.bin",
        "split.bin",
        "meta.json",
        "manifest.json",
    }
    assert all(CANARY.encode() not in path.read_bytes() for path in files)


@pytest.mark.parametrize("name", ["rows.bin", "index.bin", "split.bin", "meta.json"])
def test_a_changed_byte_names_the_file(bring_in, name):
    got = bring_in(rows(2000))
    path = got.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Tampered) as found, DatasetReader(got.folder, key=got.reader._key) as reader:
        list(reader.rows())
        reader.indices("holdout")
    assert name in str(found.value.where)


def test_another_kind_of_object_is_no_dataset(tmp_path):
    writer = ObjectWriter(tmp_path, object_id="bm-000000000001", kind="base", key=None)
    with writer.create("x") as file:
        file.write(b"x")
    writer.finish(created_at="2026-01-01T00:00:00Z")
    with pytest.raises(InvalidInput, match="not a dataset"):
        DatasetReader(tmp_path, key=None)
