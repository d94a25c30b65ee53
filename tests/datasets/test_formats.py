"""Each format by an example: recognised by content, and the rows that it becomes; packed, mapped, streamed."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.api import ColumnMap
from cloister.datasets import Message, Row
from cloister.datasets.arrays import Array
from cloister.datasets.rows import ToolCall
from cloister.errors import InvalidInput

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"of": 1}'}}
OTHER = {"id": "c2", "type": "function", "function": {"name": "count", "arguments": {"n": 1e2, "é": [None]}}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
AGENT = {
    "messages": [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Find"}, {"type": "text", "text": "it."}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL, OTHER], "refusal": None},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "assistant", "content": "Both."},
    ],
    "tools": TOOLS,
}
AGENT_ROW = Row(
    (
        Message("system", "Be short."),
        Message("user", "Find\nit."),
        Message(
            "assistant", "", (ToolCall("find", '{"of": 1}'), ToolCall("count", '{"n": 100.0, "é": [null]}'))
        ),
        Message("tool", "one"),
        Message("tool", "two"),
        Message("assistant", "Both."),
    ),
    tools=json.dumps(TOOLS),
)
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Find it."},
        {"from": "function_call", "value": '{"name": "find", "arguments": {"of": 1}}'},
        {"from": "observation", "value": "one"},
        {"from": "gpt", "value": "Done."},
    ],
    "system": "S",
    "tools": json.dumps(TOOLS),
}
SHAREGPT_ROW = Row(
    (
        Message("system", "S"),
        Message("user", "Find it."),
        Message("assistant", "", (ToolCall("find", '{"of": 1}'),)),
        Message("tool", "one"),
        Message("assistant", "Done."),
    ),
    tools=json.dumps(TOOLS),
)
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "S", "history": [["Hi", "Hello"]]}
ALPACA_ROW = Row(
    (
        Message("system", "S"),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Add.\n1 2"),
        Message("assistant", "3"),
    )
)
TURNS = {
    "prompt": [{"role": "user", "content": "p"}],
    "completion": [{"role": "assistant", "content": "c"}],
}
PAIR_ROW = Row((Message("user", "p"), Message("assistant", "c")))
EXAMPLES = {
    "chat": (AGENT, AGENT_ROW),
    "sharegpt": (SHAREGPT, SHAREGPT_ROW),
    "alpaca": (ALPACA, ALPACA_ROW),
    "alpaca-short": ({"instruction": "p", "input": "", "output": "c"}, PAIR_ROW),
    "prompt-completion": ({"prompt": "p", "completion": "c"}, PAIR_ROW),
    "prompt-completion-turns": (TURNS, PAIR_ROW),
    "text": ({"text": "Some\n\nprose."}, Row(text="Some\n\nprose.")),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("layout", ["lines", "array", "pretty"])
@pytest.mark.parametrize("packing", ["", "gzip", "zstd"])
def test_every_json_format_by_content(bring_in, name, layout, packing):
    value, row = EXAMPLES[name]
    if layout == "lines":
        data = json.dumps(value) + "\n" + json.dumps(value, ensure_ascii=False) + "\n"
    else:
        data = "\ufeff" + json.dumps([value, value], indent=2 if layout == "pretty" else None)
    packed = {"": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[packing](data.encode())
    got = bring_in(packed)
    assert list(got.reader.rows()) == [row, row]
    assert got.summary.source_format == name.removesuffix("-turns").removesuffix("-short")
    assert got.summary.packing == (packing or None)
    assert got.summary.task == ("text" if name == "text" else "chat")


def agent(*turns: dict[str, object], tools: object = None) -> bytes:
    asked = {"role": "user", "content": "a"}
    ended = {"role": "assistant", "content": "b"}
    more = {} if tools is None else {"tools": tools}
    return json.dumps({"messages": [asked, *turns, ended], **more}).encode()


def called(*calls: object) -> dict[str, object]:
    return {"role": "assistant", "tool_calls": list(calls)}


def told_by(name: str, **more: object) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": name, "content": "x", **more}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (agent(called(CALL)), "messages[2].role: comes before 1 of the calls before it are answered"),
        (
            agent(called(CALL), told_by("c1"), told_by("c1")),
            "messages[3].tool_call_id: is answered twice",
        ),
        (
            agent(called(CALL), told_by("c9")),
            "messages[2].tool_call_id: names no call of the assistant's turn before it",
        ),
        (agent(called(CALL, CALL)), "messages[1].tool_calls[1].id: is another call's, too"),
        (
            agent({"role": "user", "content": "x", "tool_calls": [CALL]}),
            "messages[1].tool_calls: unknown field; only role, content may be there",
        ),
        (agent(called({**CALL, "type": "web"})), "messages[1].tool_calls[0].type: must be `function`"),
        (
            agent(called({"function": {"name": "f", "arguments": "[1]"}})),
            "messages[1].tool_calls[0].function.arguments: must be a JSON object, or the text of one",
        ),
        (
            agent(called({"function": {"name": "f", "arguments": '{"a":1,"a":2}'}})),
            "messages[1].tool_calls[0].function.arguments: holds an object with a key twice",
        ),
        (agent(tools="{"), "tools: must be an array of functions, or the text of one"),
        (agent(tools=[{"function": {}}]), "tools[0].function.name: must be a string that is not empty"),
        (
            agent().replace(b'"content": "b"', b'"content": "b", "tool_calls": [], "tool_calls": []'),
            "messages[1].tool_calls: comes twice in one object",
        ),
        (
            agent(called(CALL), told_by("c1"), {"role": "user", "content": "x"}),
            "messages[3].role: after a tool's answer comes the assistant's turn",
        ),
    ],
)
def test_tools_that_do_not_fit_are_told_by_field_and_rule(bring_in, line, told):
    with pytest.raises(InvalidInput):
        bring_in(line)
    assert f"rows.txt:1: {told}" in bring_in.lines()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_as_parquet(bring_in, name):
    value, row = EXAMPLES[name]
    out = io.BytesIO()
    table = pa.Table.from_pylist([value] * 5 if name != "chat" else [spelt_alike(value)] * 5)
    pq.write_table(table.append_column("id", pa.array(range(5))), out, row_group_size=2, compression="zstd")
    if name == "text":
        with pytest.raises(InvalidInput, match="may be plain text"):
            bring_in(out.getvalue())
        got = bring_in(out.getvalue(), columns=ColumnMap(text="text"))
    else:
        got = bring_in(out.getvalue())
    assert list(got.reader.rows()) == [row] * 5
    assert got.summary.source_format == "parquet"


def spelt_alike(value: dict[str, object]) -> dict[str, object]:
    """Arrow has one type a column: contents and arguments are all strings."""
    told = json.loads(json.dumps(value))
    told["messages"][1]["content"] = "Find\nit."
    told["messages"][2]["tool_calls"][1]["function"]["arguments"] = '{"n": 100.0, "é": [null]}'
    return told


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (b"instruction;input;output\nAdd.;1 2;3\np;;c\n", ["Add.\n1 2>3", "p>c"]),
        (b'text\nprose\n"more, of it"\n', ["prose", "more, of it"]),
        (b"completion\tprompt\tid\nc\tp\t1\n", ["p>c"]),
    ],
)
def test_tables_of_known_formats_need_no_mapping(bring_in, table, rows):
    got = bring_in(table)
    assert [row.text or ">".join(m.content for m in row.messages) for row in got.reader.rows()] == rows


def test_plain_text_between_blank_lines_or_by_line(bring_in):
    prose = b"\xef\xbb\xbfOne, two.\r\nThree.\r\n\r\n \nFour, and, five.\n"
    got = bring_in(prose)
    assert [row.text for row in got.reader.rows()] == ["One, two.\nThree.", "Four, and, five."]
    assert (got.summary.task, got.summary.source_format) == ("text", "text")
    got = bring_in(prose, format="lines", holdout=0.5)
    assert [row.text for row in got.reader.rows()] == ["One, two.", "Three.", "Four, and, five."]
    assert {got.summary.train_rows, got.summary.holdout_rows} == {1, 2}
    got = bring_in(prose, format="document", more=[b"\n\nSix.\n\n", b"Seven.\n"])
    assert [row.text for row in got.reader.rows()] == [
        "One, two.\nThree.\n\n \nFour, and, five.",
        "Six.",
        "Seven.",
    ]
    with pytest.raises(InvalidInput, match="1 of 2 rows"):
        bring_in(b"Short.", format="document", more=[b"A line.\n\n" * 200], max_row_bytes=1024)
    assert bring_in.lines() == ["more-1:1: row: longer than 1024 bytes"]


def test_what_may_be_a_table_is_not_taken_for_text(bring_in):
    with pytest.raises(InvalidInput, match="`prompt` is not in the header"):
        bring_in(b"question,reply\na,b\nc,d\n")
    assert bring_in(b"question,reply\na,b\nc,d\n", format="text").summary.rows == 1


@pytest.mark.parametrize("form", ["lines", "array", "csv", "parquet"])
def test_groups_are_kept_by_name(bring_in, form):
    rows = [{"q": f"q{n}", "a": "x", "site": ["Ulm", "Graz"][n % 2], "year": 2020 + n} for n in range(4)]
    out = io.BytesIO()
    if form == "lines":
        out.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    elif form == "array":
        out.write(json.dumps(rows).encode())
    elif form == "csv":
        out.write(
            b"q,a,site,year\n" + b"".join(",".join(map(str, r.values())).encode() + b"\n" for r in rows)
        )
    else:
        pq.write_table(pa.Table.from_pylist(rows), out)
    got = bring_in(out.getvalue(), columns=ColumnMap(input="q", output="a", groups=("site", "year")))
    assert [row.groups for row in got.reader.rows()] == [
        {"site": row["site"], "year": str(row["year"])} for row in rows
    ]
    with pytest.raises(InvalidInput):
        bring_in(out.getvalue(), columns=ColumnMap(input="q", output="a", groups=("place",)))
    assert bring_in.problems[0].field in ("place", "")


def test_plain_text_takes_no_system_message(bring_in):
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["prose"]}), out)
    for data in (b"prose\n", b'{"text":"prose"}\n', b'[{"text":"prose"}]', b"text\nprose\n", out.getvalue()):
        with pytest.raises(InvalidInput, match="system message"):
            bring_in(data, system_prompt="S")


def test_groups_and_ignored_fields_beside_a_known_format(bring_in):
    line = {**TURNS, "site": "Ulm", "id": {"deep": [1, "role"]}}
    chat = {"messages": [*TURNS["prompt"], *TURNS["completion"]], "site": "", "id": 3}
    columns = ColumnMap(groups=("site",), ignore=("id",))
    assert bring_in(json.dumps(line).encode(), columns=columns).reader[0].groups == {"site": "Ulm"}
    assert bring_in(json.dumps(chat).encode(), columns=columns).reader[0] == PAIR_ROW
    with pytest.raises(InvalidInput):
        bring_in(json.dumps(chat).encode())
    assert [problem.field for problem in bring_in.problems] == ["site", "id"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (ColumnMap(text="a", input="b"), "stands alone"),
        (ColumnMap(output="b"), "input column must be given"),
        (ColumnMap(input="a", output="b", groups=("a",)), "name of its own"),
        (ColumnMap(input="a"), "exactly one"),
    ],
)
def test_a_mapping_that_makes_no_row_is_refused(bring_in, columns, told):
    with pytest.raises(InvalidInput, match=told):
        bring_in(b"a,b\n1,2\n", columns=columns)


class Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = data
        self._rng = random.Random(seed)

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._rng.randint(1, 40))
        found, self._data = self._data[:size], self._data[size:]
        return found


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(['"', "\\", "]", "},{", "\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=30,
)


def elements(array: Array) -> list[tuple[int, object]]:
    """Each element with its line, 0 where it was guessed; what was guessed wrong is told."""
    found: list[tuple[int, object]] = []
    for part in array:
        if not part.guessed:
            found += [(part.line_of(i), json.loads(value)) for i, value in enumerate(part.values)]
            continue
        try:
            guessed = [json.loads(value) for value in part.values]
            assert all(isinstance(value, dict) for value in guessed)
        except (ValueError, AssertionError):
            array.was_wrong()
            continue
        assert part.data.count(b'"') == sum(value.count(b'"') for value in part.values)
        found += [(0, value) for value in guessed]
    return found


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(values, max_size=8), st.sampled_from([None, 1]), st.booleans(), st.integers(0, 99))
def test_an_array_falls_into_its_elements_wherever_it_is_cut(some, indent, ascii_only, seed):
    deep = [[[[[[[[[[[["deep", {"]": "\\\\"}]]]]]]]]]]]]
    data = json.dumps([*some, deep], indent=indent, ensure_ascii=ascii_only).encode()
    found = elements(Array(Dribble(data, seed), b"", 1 << 20))
    assert [value for _, value in found] == [*some, deep]
    if indent is None:
        assert {line for line, _ in found} == {1}
    else:
        assert found[0][0] == 2
        assert data.split(b"\n")[found[-1][0] - 1] == b" ["


borders = st.sampled_from(['"}, {"q": "', '"},\n {"q": "', "x", "}, {", '"}', '\\"}, {\\"q\\": ', "é", "\n"])
questions = st.lists(borders, min_size=1, max_size=5).map("".join)
alike = st.fixed_dictionaries({"q": questions}, optional={"a": st.lists(st.just({"q": "x"}), max_size=2)})


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(alike, min_size=1, max_size=30), st.sampled_from([None, 1]), st.integers(0, 99))
def test_texts_that_look_like_the_border_of_two_elements_move_none(some, indent, seed):
    data = json.dumps(some, indent=indent, ensure_ascii=False).encode()
    assert [value for _, value in elements(Array(Dribble(data, seed), b"", 1 << 20))] == some


def test_elements_alike_are_cut_at_their_borders_and_bad_ones_told_by_line(bring_in):
    """Past the first read all are guessed, and all the same a bad one is told by its line."""
    rows = [{"prompt": f"{n} }}, {{", "completion": "y" * 99} for n in range(9000)]
    data = json.dumps(rows, indent=1).encode()
    array = Array(io.BytesIO(data), b"", 1 << 20)
    guessed = sum(len(part.values) for part in array if part.guessed)
    assert guessed > 4000
    assert [row.answer for row in bring_in(data).reader.rows()] == ["y" * 99] * 9000
    rows[8000]["prompt"] = ""
    with pytest.raises(InvalidInput):
        bring_in(json.dumps(rows, indent=1).encode())
    assert bring_in.lines() == ["rows.txt:32002: prompt: is empty"]


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.sampled_from(["gzip", "zstd"]), st.data()
)
def test_packed_members_come_out_whole_and_a_cut_never_passes(some, packing, data):
    from cloister.datasets.compression import Unpacked
    from cloister.datasets.problems import Unreadable

    pack = gzip.compress if packing == "gzip" else zstandard.compress
    packed = b"".join(map(pack, some))

    def all_of(source: bytes) -> bytes:
        unpacked, out = Unpacked(Dribble(source, 1), packing), b""
        while piece := unpacked.read(777):
            out += piece
        return out

    assert all_of(packed) == b"".join(some)
    ends = {len(b"".join(map(pack, some[:n]))) for n in range(len(some) + 1)}
    cut = data.draw(st.integers(1, len(packed) - 1).filter(lambda n: n not in ends))
    with pytest.raises(Unreadable):
        all_of(packed[:cut])


def test_a_pipe_gives_everything_but_parquet(tmp_path):
    from tests.datasets.conftest import Importer

    out = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["p"], "completion": ["c"]}), out)
    for data, told in (
        (gzip.compress(b'[{"text":"x"}]'), None),
        (out.getvalue(), "which a pipe does not have"),
    ):
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        with (
            tempfile.TemporaryDirectory() as folder,
            ExitStack() as stack,
            os.fdopen(reading, "rb") as source,
        ):
            bring_in = Importer(Path(folder), stack)
            if told is None:
                assert bring_in(source).summary.rows == 1
            else:
                with pytest.raises(InvalidInput, match=told):
                    bring_in(source)
