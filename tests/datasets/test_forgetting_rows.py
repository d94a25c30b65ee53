"""Who counts as mentioned, and what is left: the other rows, in their order and on their sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.datasets.canonical import DatasetWriter
from cloister.datasets.forgetting import Mentions, forget_rows, normalised
from cloister.datasets.reader import DatasetReader
from cloister.datasets.rows import Message, Row, ToolCall
from cloister.errors import InvalidInput, NotFound
from cloister.vault import ObjectWriter

KEY = bytes(range(32))


def row(text: str, answer: str = "yes", label: str | None = None) -> Row:
    return Row((Message("user", text), Message("assistant", answer)), label)


@pytest.mark.parametrize(
    ("identifier", "text", "mentioned"),
    [
        ("Ada Lovelace", "dear ADA\n\tLOVELACE,", True),
        ("Ada Lovelace", "Ada  \u00a0 Lovelace", True),
        ("Ada Lovelace", "Ada de Lovelace", False),
        ("Müller", "mu\u0308ller", True),
        ("Straße", "STRASSE 7", True),
        ("ＡＤＡ Lovelace", "ada lovelace", True),
        ("Lovelace", "Love\u00adlace", True),
        ("Love\u200blace", "Lovelace", True),
        ("0171 23 45", "call 0171 2345 now", True),
        ("DE89 3704 0044", "DE8937040044", True),
        ("DE8937040044", "DE89 3704 0044", True),
        ("ann", "annual report", True),
        ("ﬁnn", "Finn", True),
        ("ada@example.org", "mail to ADA@EXAMPLE.ORG.", True),
        ("ada@example.org", "ada@example.com", False),
    ],
)
def test_case_space_and_form_make_no_difference(identifier: str, text: str, mentioned: bool) -> None:
    mentions = Mentions([identifier])
    assert mentions(row(text)) is mentioned
    assert mentions(row("hello", answer=text)) is mentioned
    assert mentions(row("hello", label=text)) is mentioned


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"name": "Jürgen Müller"}),
        json.dumps({"note": "for\nJürgen\tMüller"}),
        json.dumps({"call": json.dumps({"name": "Jürgen Müller"})}),
        json.dumps({"said": 'he is "Jürgen Müller"'}, ensure_ascii=False),
    ],
)
def test_what_json_writes_as_escapes_is_found(text: str) -> None:
    mentions = Mentions(["Jürgen Müller"], whole_words=True)
    assert mentions(row("hello", answer=text))
    call = Message("assistant", "", (ToolCall("find", text),))
    assert mentions(Row((Message("user", "hi"), call)))
    assert not Mentions(["Grete"])(row("hello", answer=text + r" C:\greta \ \u12"))


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [("annual", False), ("joann", False), ("Ann.", True), ("annual for Ann", True), ("ann7", False)],
)
def test_whole_words(text: str, mentioned: bool) -> None:
    assert Mentions(["Ann"], whole_words=True)(row(text)) is mentioned


def test_a_short_identifier_is_refused_by_number_and_not_shown() -> None:
    with pytest.raises(InvalidInput, match="identifier 2 has fewer") as caught:
        Mentions(["long enough", "\u200b qz"])
    assert "qz" not in str(caught.value)


@given(st.text(max_size=40))
def test_normalised_is_stable(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once
    assert "  " not in once


def write(folder: Path, rows: list[Row], holdout: float = 0.3) -> DatasetReader:
    writer = ObjectWriter(folder, object_id="ds-000000000001", kind="dataset", key=KEY)
    with DatasetWriter(writer, holdout=holdout, seed=1) as out:
        for first in range(0, len(rows), 7):
            out.add(rows[first : first + 7])
        out.finish(source_format="jsonl")
    writer.finish(created_at="2026-01-01T00:00:00Z")
    return DatasetReader(folder, key=KEY)


def contents(reader: DatasetReader) -> list[tuple[Row, int]]:
    held = set(reader.indices("holdout"))
    return [(row, int(number in held)) for number, row in enumerate(reader.rows())]


def derive(reader: DatasetReader, folder: Path, mentions: Mentions) -> DatasetReader:
    writer = ObjectWriter(folder, object_id="ds-000000000001", kind="dataset", version=2, key=KEY)
    forget_rows(reader, writer, mentions, progress=lambda done, total: None)
    writer.finish(created_at="2026-01-01T00:00:00Z")
    return DatasetReader(folder, key=KEY)


@given(
    chosen=st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda c: any(c) and not all(c)),
    labelled=st.booleans(),
)
def test_the_others_stay_in_order_and_on_their_sides(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[bool], labelled: bool
) -> None:
    folder = tmp_path_factory.mktemp("d")
    rows = [
        row(f"text {n} of {'Ada Lovelace' if hit else 'nobody'}", label=f"l{n % 3}" if labelled else None)
        for n, hit in enumerate(chosen)
    ]
    before = write(folder / "a", rows)
    mentions = Mentions(["ada lovelace", "someone else"])
    after = derive(before, folder / "b", mentions)
    assert contents(after) == [pair for pair, hit in zip(contents(before), chosen, strict=True) if not hit]
    assert mentions.found == [sum(chosen), 0]
    sides = [side for _, side in contents(after)]
    assert (after.meta.train_rows, after.meta.holdout_rows) == (sides.count(0), sides.count(1))
    assert sum(after.meta.labels.values()) == (len(after) if labelled else 0)
    assert after.meta.task == before.meta.task
    assert not any(mentions(kept) for kept in after.rows())


def test_more_rows_than_a_batch(tmp_path: Path) -> None:
    rows = [row(f"text {n} of {'Ada Lovelace' if n % 5 == 0 else 'nobody'}") for n in range(5000)]
    before = write(tmp_path / "a", rows)
    after = derive(before, tmp_path / "b", Mentions(["ada lovelace"]))
    kept = [pair for number, pair in enumerate(contents(before)) if number % 5]
    assert contents(after) == kept


def test_none_or_all(tmp_path: Path) -> None:
    before = write(tmp_path / "a", [row("Ada Lovelace"), row("Ada Lovelace too")])
    with pytest.raises(NotFound, match="no row mentions"):
        derive(before, tmp_path / "b", Mentions(["Grace"]))
    with pytest.raises(InvalidInput, match="every row"):
        derive(before, tmp_path / "c", Mentions(["Ada"]))
    assert not (tmp_path / "b" / "manifest.json").exists()
