"""What a report says of a dataset, and that it costs no more memory the longer that is."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

import tiny
from cloister.api import DeriveConfig
from cloister.datasets.derive import Choice
from cloister.datasets.duplicates import NearFinder, RepeatCounter
from cloister.datasets.figures import Lengths
from cloister.datasets.report import Tokens, report_on
from cloister.datasets.rows import Message, Row, ToolCall
from cloister.datasets.split import HOLDOUT, TRAIN

if TYPE_CHECKING:  # of which folder's `conftest` the others' order decides
    from conftest import Importer

WORDS = [f"word{n}" for n in range(500)]


def row(prompt: str, answer: str = "yes", **more: Any) -> Row:
    return Row(messages=(Message("user", prompt), Message("assistant", answer)), **more)


def chatter(rng: random.Random, words: int = 30) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def lines(rows: list[tuple[str, str]]) -> bytes:
    return b"".join(json.dumps({"prompt": p, "completion": c}).encode() + b"\n" for p, c in rows)


def test_lengths_are_counted_to_within_three_percent() -> None:
    rng = random.Random(1)
    lengths = Lengths()
    values = [int(rng.lognormvariate(6, 1.5)) for _ in range(5_000)]
    for value in values:
        lengths.add(value)
    figures = lengths.figures()
    assert figures is not None
    ordered = sorted(values)
    assert (figures.total, figures.longest) == (sum(values), ordered[-1])
    for share, told in ((0.5, figures.median), (0.95, figures.p95), (0.99, figures.p99)):
        exact = ordered[int(share * (len(ordered) - 1))]
        assert 0.96 * exact <= told <= exact
    assert sum(count for _, count in figures.histogram) == 5_000
    assert len(figures.histogram) <= 12
    assert Lengths().figures() is None


def test_repeats_conflicts_and_leakage_are_told_apart() -> None:
    counter = RepeatCounter()
    counter.add(row("a question"), TRAIN)
    counter.add(row("A  Question"), TRAIN)  # the same input, another row
    assert counter.add(row("a question"), TRAIN)  # equal
    counter.add(row("a question", "no"), TRAIN)
    counter.add(row("another"), TRAIN)
    counter.add(row("another"), HOLDOUT)
    counter.add(row("a third", "so"), HOLDOUT)
    found = counter.counts()
    assert (found.one_in, found.duplicates, found.conflicting_inputs, found.conflicting_rows) == (1, 2, 1, 4)
    assert found.leaked == 1


def test_other_calls_are_other_answers() -> None:
    counter = RepeatCounter()
    for name in ("find", "find", "count"):
        called = Message("assistant", "", (ToolCall(name, "{}"),))
        counter.add(Row((Message("user", "how many?"), called)), TRAIN)
    found = counter.counts()
    assert (found.duplicates, found.conflicting_inputs, found.conflicting_rows) == (1, 1, 3)


def test_where_only_a_sample_is_followed_counts_are_near_the_truth() -> None:
    rng = random.Random(2)
    counter, exact = RepeatCounter(most=2_000), RepeatCounter()
    rows = [row(chatter(rng, 8)) for _ in range(20_000)]
    rows += rng.sample(rows, 6_000) + [row(one.messages[0].content, "no") for one in rng.sample(rows, 4_000)]
    for one in rows:
        counter.add(one, TRAIN)
        exact.add(one, TRAIN)
    true, found = exact.counts(), counter.counts()
    assert (true.one_in, true.duplicates, true.conflicting_inputs) == (1, 6_000, 4_000)
    assert found.one_in >= 8
    assert abs(found.duplicates - 6_000) < 1_200 and abs(found.conflicting_inputs - 4_000) < 900


def test_near_duplicates_are_found_where_no_spaces_are_written() -> None:
    finder = NearFinder()
    told = "我们需要尽快处理客户的索赔申请并且在三个工作日内给出明确的答复"
    for number, text in enumerate(
        (told, told + "，谢谢", "请把新的银行卡寄到我家，旧的那张昨天在火车站丢了，谢谢您的帮助")
    ):
        finder.add(number, row(text), TRAIN)
    assert finder.find().numbers == (1,)


def test_near_duplicates_are_found_and_others_are_not() -> None:
    rng = random.Random(3)
    originals = [chatter(rng, 40) for _ in range(300)]
    finder = NearFinder()
    for number, text in enumerate(originals):
        finder.add(number, row(text), TRAIN)
    for number in range(100):
        words = originals[number].split()
        words[20] = "other"
        finder.add(300 + number, row(" ".join(words)), HOLDOUT if number < 40 else TRAIN)
    finder.add(400, row(originals[200]), HOLDOUT)  # equal is not near
    finder.add(401, Row(messages=(Message("system", originals[201]), *row(chatter(rng, 40)).messages)), TRAIN)
    found = finder.find()
    assert found.compared == 402
    assert 92 <= found.similar <= 100 and set(found.numbers) <= set(range(300, 400))
    assert 34 <= found.leaked <= 40


def test_a_row_is_as_long_as_what_stands_in_its_turns() -> None:
    labelled = row("broken pipe", "water", label="water", groups={"site": "a place with a long name"})
    assert labelled.characters == len("broken pipe" + "water"), (
        "its label is its answer; groups are not learnt"
    )
    assert Row(text="a plain text").characters == len("a plain text")
    call = Message("assistant", "", tool_calls=(ToolCall("pay", '{"sum": 5}'),))
    called = Row(messages=(Message("user", "pay"), call), tools='[{"name": "pay"}]')
    assert called.characters == len("pay" + "pay" + '{"sum": 5}' + '[{"name": "pay"}]')


def test_the_report_and_derive_count_characters_alike(bring_in: Importer) -> None:
    columns = {"input": "text", "label": "label", "groups": ("site",)}
    reader = bring_in(b"text,label,site\nbroken pipe,water,far away\n", columns=columns).reader
    found = report_on(reader, progress=lambda done, total: None).characters
    assert found is not None and found.total == found.longest == len("broken pipe" + "water")
    most = DeriveConfig(max_characters=found.longest)
    assert Choice(most).takes(0, reader[0], TRAIN, first=True)


def test_rows_that_training_would_not_take_are_counted_by_rule(bring_in: Importer) -> None:
    rows = [(f"question {n}", "answer " * (n + 1)) for n in range(30)]
    rows[7] = ("say <|end|> now", "no")
    reader = bring_in(lines(rows), holdout=0.2).reader
    tokens = Tokens(tiny.tokenizer(), max_length=100)
    found = report_on(reader, tokens=tokens, progress=lambda done, total: None)
    special = "has text that the tokenizer reads as a special token"
    assert found.first_lost[special] == [7] and found.lost[special] == 1
    longer = found.first_lost["is longer than 100 tokens"]
    assert longer == sorted(longer) and 7 not in longer
    assert found.tokens is not None and sum(count for _, count in found.tokens.histogram) == 29
    assert found.supervised_tokens < found.tokens.total


def test_what_is_counted_is_what_the_run_to_come_would_learn_on(bring_in: Importer) -> None:
    turns = [{"role": role, "content": "four"} for _ in range(3) for role in ("user", "assistant")]
    reader = bring_in(json.dumps({"messages": turns}).encode() + b"\n", holdout=0.0).reader
    supervised = {}
    for loss_on in ("assistant", "last", "all"):
        tokens = Tokens(tiny.tokenizer(), loss_on=loss_on)
        supervised[loss_on] = report_on(reader, tokens=tokens, progress=lambda d, t: None).supervised_tokens
    assert supervised["assistant"] == 3 * supervised["last"] == 3 * len("four!")
    assert supervised["all"] > supervised["assistant"]


def test_a_template_that_refuses_a_row_loses_that_row_only(bring_in: Importer) -> None:
    rows = [
        {"messages": [*([{"role": "system", "content": "be brief"}] if n == 5 else []),
                      {"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(20)
    ]  # fmt: skip
    reader = bring_in(b"".join(json.dumps(one).encode() + b"\n" for one in rows)).reader
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + tiny.TEMPLATE
    )
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    tokens = Tokens(tokenizer)
    found = report_on(reader, tokens=tokens, progress=lambda done, total: None)
    assert found.lost == {"is refused by the chat template": 1}
    assert found.first_lost == {"is refused by the chat template": [5]}
    assert found.with_system == 1 and found.turns == {2: 19, 3: 1}


CHILD = textwrap.dedent(
    """
    import json, os, sys, tempfile
    from pathlib import Path
    from cloister.datasets.canonical import DatasetWriter
    from cloister.datasets.reader import DatasetReader
    from cloister.datasets.report import report_on
    from cloister.datasets.rows import Message, Row
    from cloister.datasets import duplicates
    from cloister.vault import ObjectWriter

    duplicates.FOLLOWED, count, words, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    duplicates.RepeatCounter.__init__.__defaults__ = (duplicates.FOLLOWED,)
    key = os.urandom(32)
    if not folder.exists():
        writer = ObjectWriter(folder, object_id="ds-000000000001", kind="dataset", key=key)
        with DatasetWriter(writer, holdout=0.1, seed=0) as out:
            for first in range(0, count, 500):
                out.add([
                    Row(messages=(
                        Message("user", " ".join(f"w{(n * 7919 + k * k) % 9973}" for k in range(words))),
                        Message("assistant", f"answer {n % 17}")))
                    for n in range(first, min(count, first + 500))
                ])
            out.finish(source_format="jsonl")
        writer.finish(created_at="2026-01-01T00:00:00Z", counts={"rows": count})
    peaks = []
    def progress(done, total):
        if done % (max(1, total // 20) // 256 * 256 or 256) == 0 or done == total:
            # Not ru_maxrss: that begins with what the process had in memory that started this one.
            status = open("/proc/self/status").read().splitlines()
            peaks.append((done, next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM"))))
    with DatasetReader(folder, key=key, object_id="ds-000000000001") as reader:
        found = report_on(reader, progress=progress)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(json.dumps({"peaks": peaks, "bytes": size, "report": found.model_dump(mode="json")}))
    """
)


def reported(folder: Any, *, followed: int, rows: int, words: int) -> dict[str, Any]:
    """Write a dataset and report on it, in a process of its own; its peak memory (MiB) as it went on."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(followed), str(rows), str(words), str(folder)],
        capture_output=True,
        text=True,
        timeout=5000,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def test_memory_is_bounded_once_the_sample_is_full(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short = reported(tmp_path / "short", followed=1_000, rows=3_000, words=12)
    long = reported(tmp_path / "long", followed=1_000, rows=8_000, words=12)
    assert long["report"]["repeats"]["one_in"] >= 8
    grown = long["peaks"][-1][1] - short["peaks"][-1][1]
    assert grown < 16, grown  # 5,000 more rows are compared, 650 bytes each


@pytest.mark.soak
@pytest.mark.slow
def test_two_gigabytes_are_reported_in_flat_memory(tmp_path: Any) -> None:
    """After the first quarter, in which the samples fill, memory stays where it is."""
    got = reported(tmp_path / "big", followed=300_000, rows=1_200_000, words=300)
    quarter = next(peak for done, peak in got["peaks"] if done >= 300_000)
    end = [peak for done, peak in got["peaks"] if done < 1_200_000][-1]
    last = got["peaks"][-1][1]
    print(
        f"soak: report_gb={got['bytes'] / 1e9:.2f} rows=1200000 quarter_mib={quarter} before_end_mib={end} "
        f"peak_mib={last} one_in={got['report']['repeats']['one_in']}"
    )
    assert got["bytes"] > 1.5e9
    assert end - quarter < 64
