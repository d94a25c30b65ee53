"""CSV: mapping by name, quoting, line numbers, and every way in which a table can be broken."""

from __future__ import annotations

import csv
import io
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.api import ColumnMap
from cloister.datasets import Message, Row
from cloister.datasets.blocks import Blocks
from cloister.datasets.problems import Problem, ProblemLog
from cloister.datasets.tables import Table
from cloister.errors import InvalidInput

LABEL = ColumnMap(input="text", label="category")
OUTPUT = ColumnMap(input="text", output="answer", system="role")
SECRET = "Zanzibar-4711"


def test_text_and_label(bring_in):
    got = bring_in(
        b'id,text,category\n1,hello,greeting\n2,"a, ""b""\nc",x \n', columns=LABEL, system_prompt="S"
    )
    system = Message("system", "S")
    assert list(got.reader.rows()) == [
        Row((system, Message("user", "hello"), Message("assistant", "greeting")), "greeting"),
        Row((system, Message("user", 'a, "b"\nc'), Message("assistant", "x")), "x"),
    ]
    assert (got.summary.task, got.summary.labels, got.summary.source_format) == ("classification", 2, "csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiter_line_ending_and_byte_order_mark(bring_in, delimiter, ending, mark):
    table = f"{mark}answer|text|role{ending}A|Q|{ending}B|R|own{ending}".replace("|", delimiter)
    got = bring_in(table.encode(), columns=OUTPUT, system_prompt="S")
    assert [[m.content for m in row.messages] for row in got.reader.rows()] == [
        ["S", "Q", "A"],
        ["own", "R", "B"],
    ]


def test_prompt_and_completion_need_no_mapping(bring_in):
    assert bring_in(b"prompt,completion\na,b\n").reader[0].answer == "b"


def test_a_missing_or_repeated_column_is_named(bring_in):
    with pytest.raises(
        InvalidInput, match=r"rows\.txt:1: column `category` is not in the header.*has 2 columns"
    ):
        bring_in(f"text,{SECRET}\na,b\n".encode(), columns=LABEL)
    assert bring_in.lines() == ["rows.txt:1: category: no such column in the header"]
    with pytest.raises(InvalidInput, match="column `text` comes twice in the header"):
        bring_in(b"text,category,text\na,b,c\n", columns=LABEL)
    with pytest.raises(InvalidInput, match="`prompt` is not in the header; column `completion`"):
        bring_in(f"{SECRET},x\na,b\n".encode())
    assert SECRET not in "".join(bring_in.lines())


def test_every_broken_record_is_told_by_its_first_line(bring_in):
    table = (
        b"text,category\n"  # 1
        b"good,x\n"  # 2
        b"only one\n"  # 3
        b"a,b,c\n"  # 4
        b'"two\nlines",\n'  # 5-6: no label
        b" ,x\n"  # 7
        b"nul\0byte,x\n"  # 8
        b"bad \xff byte,x\n"  # 9
        b'"bad\nagain \xfe","x"\n'  # 10-11
        b'"closed"too early,x\n'  # 12
        b"\n"  # 13: blank
        b"good again,x\n"  # 14
        b'"never closed,x\n'  # 15
    )
    with pytest.raises(InvalidInput, match="9 of 11 rows are bad"):
        bring_in(table, columns=LABEL)
    assert bring_in.lines() == [
        "rows.txt:3: row: has 1 fields where the header has 2",
        "rows.txt:4: row: has 3 fields where the header has 2",
        "rows.txt:5: category: is empty",
        "rows.txt:7: text: is empty",
        "rows.txt:8: row: NUL byte at byte 4 of line 8",
        "rows.txt:9: row: invalid UTF-8 at byte 5 of line 9",
        "rows.txt:10: row: invalid UTF-8 at byte 7 of line 11",
        "rows.txt:12: row: broken quoting or a stray line ending",
        "rows.txt:15: row: a quote is opened and never closed",
    ]


@pytest.mark.parametrize("size", [2_000, 300_000])
def test_a_line_over_the_limit_is_named_by_its_own_number(bring_in, size):
    """Behind good rows, behind another such line, and first of all; short and longer than a read."""
    long = b"c" * size + b",x\n"
    for before, at in ((b"", 2), (b"a,x\n" * 5, 7), (b"a,x\n" * 40_000, 40_002)):
        table = b"text,category\n" + before + long + long + b"d,x\n"
        bring_in(table, columns=LABEL, max_row_bytes=1024, max_dropped=2)
        rule = "longer than 1024 bytes (is a quote never closed?)"
        assert bring_in.lines() == [f"rows.txt:{at}: row: {rule}", f"rows.txt:{at + 1}: row: {rule}"]


def test_a_record_over_the_limit_does_not_take_the_rest_with_it(bring_in):
    table = b'text,category\na,x\n"' + b"line\n" * 1000 + b'",x\nb,x\n' + b"c" * 2000 + b",x\nd,x\n"
    got = bring_in(table, columns=LABEL, max_row_bytes=1024, max_dropped=2000)
    assert got.problems[0].format("f") == "f:3: row: longer than 1024 bytes (is a quote never closed?)"
    kept = [row.messages[0].content for row in got.reader.rows()]
    assert kept[0] == "a"
    assert kept[-1] == "d"
    assert all("c" not in text for text in kept)


def test_the_process_wide_field_limit_is_put_back(bring_in):
    before = csv.field_size_limit()
    long = b"x" * 300_000
    assert (
        bring_in(b"text,category\n" + long + b",y\n", columns=LABEL).reader[0].messages[0].content
        == long.decode()
    )
    assert csv.field_size_limit() == before


def test_headers_that_are_none(bring_in):
    with pytest.raises(InvalidInput, match="carriage returns"):
        bring_in(b"text,category\ra,b\rc,d\r", columns=LABEL)
    with pytest.raises(InvalidInput, match="NUL byte"):
        bring_in(b"te\0xt,category\na,b\n", columns=LABEL)
    with pytest.raises(InvalidInput, match="no rows"):
        bring_in(b"text,category\n", columns=LABEL)
    with pytest.raises(InvalidInput, match="too long"):
        bring_in(b"x" * 5000, columns=LABEL, max_row_bytes=1024)


def test_a_free_text_column_is_not_taken_for_labels(bring_in):
    table = b"text,category\n" + b"".join(b"t,%d\n" % n for n in range(10_050))
    with pytest.raises(InvalidInput, match="more than 10000 different labels"):
        bring_in(table, columns=LABEL)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=15).filter(
    str.strip
)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=12), st.sampled_from([",", ";", "\t"]))
def test_any_table_survives_the_round_trip(importer_in, some, delimiter):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows([("text", "category"), *some])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        got = importer_in(Path(folder), stack)(out.getvalue().encode(), columns=LABEL)
        assert [(r.messages[0].content, r.label) for r in got.reader.rows()] == [
            (t, c.strip()) for t, c in some
        ]


junk = st.lists(
    st.sampled_from(
        [
            "a",
            "é",
            '"',
            '""',
            ",",
            "\n",
            "\r\n",
            "\r",
            '"b\n,c"',
            "x,y\n",
            '"q",z\n',
            "\0",
            "\n\n",
            " ",
            "x" * 30,
        ]
    ),
    max_size=60,
).map("".join)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(junk, st.integers(1, 60), st.sampled_from([40, 1 << 20]), st.booleans())
def test_a_table_is_the_same_however_it_is_cut(table, read_size, limit, broken):
    data = b"text,category\n" + table.encode() + (b"\xff,z\n" if broken else b"")

    def read(size: int) -> tuple[list[Row], list[Problem]]:
        problems: list[Problem] = []
        blocks = Blocks(io.BytesIO(data), limit, size)
        opened = Table(
            blocks,
            LABEL,
            system=None,
            max_row_bytes=limit,
            problems=ProblemLog(problems.append),
            source_name="f",
        )
        return [row for batch in opened.rows() for row in batch], problems

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "read", lambda table, piece: None)
        exact = read(1 << 20)
    assert read(read_size) == exact
    assert read(1 << 20) == exact


def test_a_table_without_a_doubt_is_read_block_by_block(monkeypatch):
    """Cells over several lines cross the blocks: the quick way must take them all, or it is none."""
    monkeypatch.setattr(Table, "exactly", None)
    data = b"text,category\n" + b"".join(b'"line %d\nand ""more""",%d\n' % (n, n % 7) for n in range(500))
    for size in (50, 333, 1 << 20):
        blocks = Blocks(io.BytesIO(data), 1 << 20, size)
        opened = Table(
            blocks, LABEL, system=None, max_row_bytes=1 << 20, problems=ProblemLog(print), source_name="f"
        )
        texts = [row.messages[0].content for batch in opened.rows() for row in batch]
        assert texts == [f'line {n}\nand "more"' for n in range(500)]
