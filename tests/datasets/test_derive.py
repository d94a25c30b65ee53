"""Datasets made of datasets, by the worker's verb as the authority would have it run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import worker_jobs
from cloister.api import Chosen, DeriveConfig, Grant
from cloister.datasets.corrections import read_corrections
from cloister.datasets.derive import Choice
from cloister.datasets.reader import DatasetReader
from cloister.datasets.rows import Message, Row
from cloister.datasets.split import HOLDOUT, TRAIN
from cloister.errors import Interrupted, InvalidInput
from cloister.worker.verbs import derive, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("derived")


@pytest.fixture(scope="module")
def letters(folder: Path) -> Grant:
    return brought_in(
        folder,
        "letters",
        [(asked(n), f"reply {n}") for n in range(60)],
    )


def asked(number: int) -> str:
    return f"letter {number} about the weather in town {number % 5}"


def brought_in(folder: Path, name: str, pairs: list[tuple[str, str]], **config: Any) -> Grant:
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    return worker_jobs.import_dataset(folder, source, holdout=0.3, **config)


def made(
    folder: Path, *parents: Grant, corrections: bytes | None = None, **config: Any
) -> tuple[dict[str, Any], Grant]:
    out = worker_jobs.output(folder, "dataset", "ds")
    descriptors = {}
    if corrections is not None:
        descriptors["corrections"] = os.memfd_create("corrections")
        os.pwrite(descriptors["corrections"], corrections, 0)
        config["corrections"] = True
    inputs = {f"other-{n:02}" if n else "dataset": parent for n, parent in enumerate(parents)}
    job = worker_jobs.job("derive", DeriveConfig(**config), out, inputs=inputs, descriptors=descriptors)
    return derive.run(job, worker_jobs.Recorder()), worker_jobs.as_input(out)


def opened(grant: Grant) -> DatasetReader:
    return DatasetReader(Path(grant.path), key=worker_jobs.raw_key(grant))


def prompts(grant: Grant, side: str = "all") -> list[str]:
    with opened(grant) as reader:
        return [row.messages[0].content for row in reader.rows(side)]


def test_rows_are_chosen_in_order_and_keep_their_side(folder: Path, letters: Grant) -> None:
    result, grant = made(folder, letters, rows=[(0, 19), (30, 30)], without=[(3, 4)], max_characters=44)
    wanted = [n for n in (*range(20), 30) if n not in (3, 4)]
    with opened(letters) as reader:
        sizes = [sum(len(message.content) for message in row.messages) for row in reader.rows("all")]
        held = set(reader.indices("holdout"))
    wanted = [n for n in wanted if sizes[n] <= 44]
    assert 0 < len(wanted) < 19
    assert prompts(grant) == [asked(n) for n in wanted]
    assert prompts(grant, "holdout") == [asked(n) for n in wanted if n in held]
    assert (result["rows"], result["not_chosen"]) == (len(wanted), 60 - len(wanted))
    _, only = made(folder, letters, side="holdout")
    assert prompts(only) == prompts(letters, "holdout") == prompts(only, "holdout")


def test_the_same_seed_draws_the_same_rows(folder: Path, letters: Grant) -> None:
    first, again, other = (made(folder, letters, sample=25, seed=seed)[1] for seed in (1, 1, 2))
    assert prompts(first) == prompts(again) != prompts(other)
    assert len(prompts(first)) == 25 and prompts(first) == sorted(prompts(first), key=prompts(letters).index)
    assert made(folder, letters, sample=100)[0]["not_drawn"] == 0


def test_repeats_are_left_out_the_first_stays(folder: Path, letters: Grant) -> None:
    long = " ".join(f"w{n}" for n in range(40))
    pairs = [
        ("a", "1"),
        (long, "2"),
        ("a", "1"),
        ("a", "3"),
        (long.replace("w20", "other"), "2"),
        (long, "2"),
    ]
    source = brought_in(folder, "repeated", pairs)
    result, grant = made(folder, source, dedupe="exact")
    assert (result["repeats"], prompts(grant)) == (2, ["a", long, "a", long.replace("w20", "other")])
    result, grant = made(folder, source, dedupe="near")
    assert (result["repeats"], prompts(grant)) == (3, ["a", long, "a"])


def test_merged_rows_are_split_anew_so_that_no_input_is_on_both_sides(folder: Path, letters: Grant) -> None:
    other = brought_in(
        folder,
        "other",
        [(asked(n), "else") for n in range(60)],
        seed=9,
    )
    _, both = made(folder, letters, other)
    assert len(prompts(both)) == 120
    assert not set(prompts(both, "train")) & set(prompts(both, "holdout"))
    assert set(prompts(letters, "train")) & set(prompts(other, "holdout"))  # they were split differently
    table = folder / "labelled.csv"
    table.write_text("text,label\n" + "".join(f"t{n},{'ab'[n % 2]}\n" for n in range(10)))
    labelled = worker_jobs.import_dataset(
        folder, table, columns={"input": "text", "label": "label"}, holdout=0.2
    )
    with pytest.raises(InvalidInput, match="different tasks"):
        made(folder, letters, labelled)
    _, some = made(folder, labelled, chosen=Chosen(labels=("b",)))
    with opened(some) as reader:
        assert reader.labels() == {"b": 5}
    result, mended = made(folder, labelled, corrections=b'{"row": 0, "label": "c"}\n')
    with opened(mended) as reader:
        assert reader.labels() == {"b": 5, "a": 4, "c": 1} and result["corrected"] == 1
        assert reader[0].answer == "c"


def test_rows_are_corrected_by_number(folder: Path, letters: Grant) -> None:
    file = (
        b'{"row": 5, "answer": "mended"}\n\n{"row": 2, "leave_out": true}\n'
        b'{"row": 6, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
    )
    result, grant = made(folder, letters, corrections=file, rows=[(0, 9)])
    assert (result["corrected"], result["left_out"]) == (2, 1), "a row that is gone is not called corrected"
    with opened(grant) as reader:
        answers = [row.answer for row in reader.rows("all")]
    assert answers == [
        "reply 0",
        "reply 1",
        "reply 3",
        "reply 4",
        "mended",
        "y",
        "reply 7",
        "reply 8",
        "reply 9",
    ]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"{", "not a correction"),
        (b'{"row": 1}', "and one of"),
        (b'{"row": 1, "answer": "SECRET", "label": "b"}', "and one of"),
        (b'{"row": -1, "answer": "SECRET"}', "a row, and one of"),
        (b'{"row": "SECRET", "answer": "a"}', "not a correction"),
        (b'{"row": 1, "answer": ""}', "is empty"),
        (b'{"row": 1, "answer": "SECRET"}\n{"row": 1, "answer": "b"}', "has a correction already"),
        (b'{"row": 1, "messages": [{"role": "user", "content": "SECRET"}]}', "the last turn"),
        (b'{"row": 1, "SECRET": 2}', "not a correction"),
        (b'{"row": 1, "answer": "' + b"x" * (5 << 20) + b'"}', "longer than 4 MiB"),
        (b"\xff\xfe", "not a correction"),
        (b"", "no correction"),
        (b'{"row": 70, "answer": "SECRET"}', "are not taken"),
        (b'{"row": 1, "label": "SECRET"}', "this row has no label"),
        (b'{"row": 1, "answer": " "}', r"messages\[1\].content: is empty"),
        (
            b'{"row": 1, "messages": [{"role": "user", "content": "SECRET"}, {"role": "user", "content": "x"}, '
            b'{"role": "assistant", "content": "y"}]}',
            r"messages\[1\].role: two user turns in a row",
        ),
    ],
)
def test_broken_corrections_are_refused_and_not_shown(
    folder: Path, letters: Grant, line: bytes, rule: str
) -> None:
    with pytest.raises(InvalidInput, match=rule) as refused:
        made(folder, letters, corrections=line)
    assert "SECRET" not in str(refused.value) and "corrections" in str(refused.value.where)


def test_all_broken_corrections_are_named_at_once(folder: Path, letters: Grant) -> None:
    lines = b'{"row": 1, "answer": "a"}\n{\n{"row": 1, "answer": "SECRET"}\n{"row": 2, "answer": ""}\n'
    with pytest.raises(InvalidInput) as refused:
        made(folder, letters, corrections=lines)
    assert refused.value.message == (
        "3 lines break a rule: line 2: not a correction in JSON, or with a field that there is not; "
        "line 3: this row has a correction already; line 4: is empty"
    )
    with pytest.raises(InvalidInput, match=r"30 lines .* line 20: .*; and 10 more") as refused:
        made(folder, letters, corrections=b"{\n" * 30)
    assert "line 21" not in refused.value.message


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_corrections_or_refused(data: bytes) -> None:
    descriptor = os.memfd_create("any")
    os.pwrite(descriptor, data, 0)
    with os.fdopen(descriptor, "rb") as file:
        try:
            found = read_corrections(file)
        except InvalidInput:
            return
    assert found


def test_patterns_groups_and_broken_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(
        messages=(Message("user", "a leak in Leeds"), Message("assistant", "ok")), groups={"site": "north"}
    )
    yes = Choice(DeriveConfig(chosen=Chosen(matching=("leak", "^ok$"), groups={"site": ("north", "south")})))
    assert yes.takes(0, row, TRAIN, first=True)
    assert not Choice(DeriveConfig(chosen=Chosen(groups={"site": ("east",)}))).takes(
        0, row, TRAIN, first=True
    )
    assert not Choice(DeriveConfig(chosen=Chosen(not_matching=("(?i)LEEDS",)))).takes(
        0, row, TRAIN, first=True
    )
    assert not Choice(DeriveConfig(side="holdout")).takes(0, row, TRAIN, first=True)
    assert Choice(DeriveConfig(side="holdout")).takes(0, row, HOLDOUT, first=True)
    with pytest.raises(InvalidInput, match=r"pattern 2 \(matching\)") as refused:
        Choice(DeriveConfig(chosen=Chosen(matching=("a", "(SECRET"))))
    assert "SECRET" not in str(refused.value)
    monkeypatch.setattr("cloister.datasets.derive.MATCH_S", 0.1)
    endless = Row(messages=(Message("user", "a" * 40 + "!"), Message("assistant", "ok")))
    hungry = Choice(DeriveConfig(chosen=Chosen(matching=("(a|aa)+$(?<!b)(a|aa|aaa)*x",))))
    with pytest.raises(InvalidInput, match="takes more than"):
        hungry.takes(0, endless, TRAIN, first=True)


def test_a_stop_leaves_nothing_and_rows_that_are_not_there_are_refused(folder: Path, letters: Grant) -> None:
    out = worker_jobs.output(folder, "dataset", "ds")
    job = worker_jobs.job("derive", DeriveConfig(), out, inputs={"dataset": letters})
    with pytest.raises(Interrupted):
        derive.run(job, worker_jobs.Recorder(stop_when=lambda recorder: True))
    assert not (Path(out.path) / "manifest.json").exists()
    with pytest.raises(InvalidInput, match="no row is left"):
        made(folder, letters, min_characters=10_000)
    wrong = [[(60, 60)], [(0, 5), (60, 70)], [(9, 2)]]
    for ranges in wrong:
        for option in ("rows", "without"):
            with pytest.raises(InvalidInput, match="there is no row") as refused:
                made(folder, letters, **{option: ranges})
            assert refused.value.where == f"--{option}" and "0 to 59" in str(refused.value.remedy)
    _, to_the_end = made(folder, letters, rows=[(50, 900)])
    assert prompts(to_the_end) == [asked(n) for n in range(50, 60)]
    descriptor = os.memfd_create("rows")
    shown = worker_jobs.job(
        "rows", {"rows": [60]}, None, inputs={"dataset": letters}, descriptors={"output": descriptor}
    )
    with pytest.raises(InvalidInput, match="no row 60"):
        rows.run(shown, worker_jobs.Recorder())
