"""JSON lines: what is taken, what is refused and how it is told, and that both ways of reading agree."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.api import ColumnMap
from cloister.datasets import Message, Row
from cloister.datasets.alpaca import AlpacaShape
from cloister.datasets.blocks import Block
from cloister.datasets.columns import Columns, FieldsShape
from cloister.datasets.dialogues import ConversationShape
from cloister.datasets.jsonl import parse_line, quick_rows, read_block
from cloister.datasets.problems import Problem, ProblemLog
from cloister.datasets.turns import CHAT, SHAREGPT, spelt
from cloister.errors import InvalidInput

SECRET = "Zanzibar-4711"
GOOD = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}'


def chat(*turns: tuple[str, object], **more: object) -> str:
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns], **more})


def test_chat_rows_come_back_as_they_were(bring_in):
    turns = (
        ("system", "Be short."),
        ("user", "Wie geht’s?\n"),
        ("assistant", "Gut 🙂"),
        ("user", "x"),
        ("assistant", "y"),
    )
    got = bring_in((chat(*turns) + "\n" + GOOD).encode())
    assert got.reader[0] == Row(tuple(Message(r, c) for r, c in turns))
    assert got.summary.rows == 2
    assert got.summary.task == "chat"
    assert got.summary.source_format == "chat"


def test_prompt_and_completion(bring_in):
    got = bring_in(b'{"prompt":"p","completion":"c"}\n{"completion":"d","prompt":"q"}\n', system_prompt="S")
    turns = (Message("system", "S"), Message("user", "q"), Message("assistant", "d"))
    assert got.reader[1] == Row(turns)


def test_mapped_columns_with_label_look_at_nothing_else(bring_in):
    rows = b'{"text":"t","cat":" c ","id":{"deep":[1]}}\n{"id":1e999,"text":"u","cat":"d"}\n'
    got = bring_in(rows, columns=ColumnMap(input="text", label="cat"))
    assert got.reader[0] == Row((Message("user", "t"), Message("assistant", "c")), "c")
    assert got.summary.task == "classification"
    assert got.reader.labels() == {"c": 1, "d": 1}


def test_labels_of_chat_rows_make_a_classification(bring_in):
    got = bring_in((chat(("user", "a"), ("assistant", "x"), label="x") + "\n").encode())
    assert (got.summary.task, got.summary.labels) == ("classification", 1)
    with pytest.raises(InvalidInput):
        bring_in((chat(("user", "a"), ("assistant", "x"), label="y") + "\n").encode())
    assert bring_in.lines() == ["rows.txt:1: label: must be the same as the assistant's last answer"]


def test_a_system_prompt_is_put_only_where_none_is(bring_in):
    rows = GOOD + "\n" + chat(("system", "own"), ("user", "a"), ("assistant", "b"))
    got = bring_in(rows.encode(), system_prompt="all")
    assert [row.messages[0].content for row in got.reader.rows()] == ["all", "own"]


def test_byte_order_mark_crlf_blank_lines_and_no_last_newline(bring_in):
    got = bring_in(b"\xef\xbb\xbf" + f"\r\n{GOOD}\r\n\r\n  \n{GOOD}".encode())
    assert got.summary.rows == 2


BAD = {
    "[1, 2": "row: not valid JSON (at byte 6 of the line)",
    "[]": "row: must be an object",
    "null": "row: must be an object",
    "{}": "messages: is missing",
    '{"messages": []}': "messages: is empty",
    '{"messages": {}}': "messages: must be an array of turns",
    json.dumps({"messages": SECRET}): "messages: must be an array of turns",
    json.dumps({"messages": [SECRET, None]}): "messages[0]: must be an object|messages[1]: must be an object",
    '{"messages": [{"role": "user"}]}': "messages[0].content: is missing",
    json.dumps({"messages": [{"content": SECRET}]}): "messages[0].role: is missing",
    chat(
        ("robot", SECRET), ("assistant", "x")
    ): "messages[0].role: must be one of system, developer, user, assistant, tool, function",
    chat(
        (["user"], "x"), ("assistant", "x")
    ): "messages[0].role: must be one of system, developer, user, assistant, tool, function",
    chat(
        ("user", 5), ("assistant", None)
    ): "messages[0].content: must be a string|messages[1].content: must be a string",
    chat(
        ("user", [{"type": "image_url", "text": SECRET}]), ("assistant", "x")
    ): "messages[0].content[0]: must be a part of type `text`",
    chat(("user", " \n"), ("assistant", "")): "messages[0].content: is empty|messages[1].content: is empty",
    chat(("user", "a"), ("assistant", "b\0c")): "messages[1].content: contains a NUL character",
    chat(("assistant", "a")): "messages[0].role: the first turn after the system's must be the user's",
    chat(("user", "a"), ("user", "b"), ("assistant", "c")): "messages[1].role: two user turns in a row",
    chat(
        ("user", "a"), ("assistant", "b"), ("assistant", "c")
    ): "messages[2].role: two assistant turns in a row",
    chat(
        ("user", "a"), ("system", "b"), ("assistant", "c")
    ): "messages[1].role: a system turn may only come first",
    chat(("user", "a")): "messages[0].role: the last turn must be the assistant's",
    chat(
        ("user", "a"), ("assistant", "b"), id=3
    ): "id: unknown field; only messages, tools, functions may be there",
    chat(
        ("user", "a"), ("assistant", "b"), **{"Müller " + SECRET: 3}
    ): "field 2: unknown field; only messages, tools, functions may be there",
    '{"messages":[{"role":"user","content":"a","name":"x"},{"role":"assistant","content":"b"}]}': (
        "messages[0].name: unknown field; only role, content may be there"
    ),
    '{"messages":[{"role":"user","content":"a","content":"z"},{"role":"assistant","content":"b"}]}': (
        "messages[0].content: comes twice in one object"
    ),
    '{"messages":[{"role":"user","content":"a","cont\\u0065nt":"z"},{"role":"assistant","content":"b"}]}': (
        "messages[0].content: comes twice in one object"
    ),
    '{"messages":[],' + GOOD[1:]: "messages: comes twice in one object",
    GOOD.replace('"a"', '"\\ud800"'): "messages[0].content: contains half of a surrogate pair",
    GOOD.replace('"a"', "NaN"): "row: not valid JSON: NaN and Infinity are no numbers there, null is",
    GOOD.replace('"a"', "1" * 50_000): "messages[0].content: must be a string",
    GOOD.replace('"a"', "1e999999999"): "messages[0].content: must be a string",
    GOOD.replace('"a"', "[" * 50_000): "row: nested too deeply",
    GOOD.replace('"a"', '{"a":' * 50_000): "row: nested too deeply",
    '{"x":' + "[" * 50_000: "row: nested too deeply",
    GOOD + GOOD: f"row: not valid JSON (at byte {len(GOOD) + 1} of the line)",
    GOOD.replace('"a"', '"a\tb"'): "row: not valid JSON (at byte 41 of the line)",
}


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_by_line_field_and_rule(bring_in, line):
    with pytest.raises(InvalidInput) as refused:
        bring_in(f"{GOOD}\n{line}\n{GOOD}\n".encode())
    assert bring_in.lines() == [f"rows.txt:2: {told}" for told in BAD[line].split("|")]
    assert refused.value.values == {"rows": 2, "bad_rows": 1, "problems": len(bring_in.problems)}
    assert SECRET not in str(refused.value) + "".join(bring_in.lines())


def test_the_shape_is_told_by_the_first_row_that_has_one_however_long(bring_in):
    long = json.dumps({"prompt": "x" * 200_000, "completion": "y"})
    assert bring_in(f"{long}\n".encode()).summary.source_format == "prompt-completion"
    got = bring_in(b'{}\nnull\n{"prompt":"a","completion":"b"}\n', max_dropped=2)
    assert got.summary.source_format == "prompt-completion"


def test_bad_bytes_are_told_with_their_place(bring_in):
    with pytest.raises(InvalidInput):
        bring_in(GOOD.encode() + b'\n{"mess\xffages":[]}\n{"messages":\0[]}\n')
    assert bring_in.lines() == [
        "rows.txt:2: row: invalid UTF-8 at byte 7 of the line",
        "rows.txt:3: row: NUL byte at byte 13 of the line",
    ]


def test_every_bad_row_is_reported_at_once(bring_in):
    lines = [GOOD if n % 3 else "{}" for n in range(9000)]
    with pytest.raises(InvalidInput, match="3000 of 9000 rows are bad; nothing was imported"):
        bring_in("\n".join(lines).encode())
    assert [problem.line for problem in bring_in.problems] == list(range(1, 9001, 3))


def test_bad_rows_are_dropped_only_up_to_the_number_allowed(bring_in):
    rows = f"{GOOD}\n{{}}\n{GOOD}\nnull\n".encode()
    assert bring_in(rows, max_dropped=2).summary.dropped == 2
    with pytest.raises(InvalidInput, match="more than the 1 that may be dropped"):
        bring_in(rows, max_dropped=1)
    with pytest.raises(InvalidInput, match="no rows"):
        bring_in(b'{"messages":[]}\n', max_dropped=5)


def test_prompt_completion_faults(bring_in):
    rows = '{"prompt":"a","completion":"b"}\n{"prompt":[1],"completion":""}\n{"prompt":"a","x":1}\n'
    with pytest.raises(InvalidInput):
        bring_in(rows.encode())
    assert bring_in.lines() == [
        "rows.txt:2: prompt: must be a string",
        "rows.txt:2: completion: is empty",
        "rows.txt:3: completion: is missing",
        "rows.txt:3: x: unknown field; only prompt, completion, system may be there",
    ]


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"", "is empty"),
        (b" \n\r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"PAR1....", "footer"),
        (b"\x80\x04\x95", "pickle"),
        (b"PK\x03\x04", "zip"),
        ("x".encode("utf-32"), "UTF-32"),
        (b'{"chosen":"x","rejected":"y"}\n', "preference"),
        (b'{"text":"x","category":"y"}\n', "`text` and other fields"),
        (b'{\n "messages": []\n}\n', "several lines"),
        (b'{"instruction":"x"}\n', "Alpaca"),
        (b'{"foo":"x"}\n', "no known format"),
    ],
)
def test_what_is_no_rows_is_named(bring_in, start, told):
    with pytest.raises(InvalidInput, match=told) as refused:
        bring_in(start)
    assert refused.value.where.startswith("rows.txt")


def test_mapping_both_output_and_label_is_refused(bring_in):
    with pytest.raises(InvalidInput, match="exactly one"):
        bring_in(b"a,b\n", columns=ColumnMap(input="a", output="b", label="b"))


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(
    str.strip
)


@st.composite
def rows(draw) -> Row:
    turns = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Message("user", draw(texts)), Message("assistant", draw(texts))]
    return Row(tuple(turns))


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(rows(), min_size=1, max_size=12), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_any_rows_survive_the_round_trip(importer_in, some, ascii_only, ending):
    lines = [
        json.dumps(
            {"messages": [{"role": m.role, "content": m.content} for m in row.messages]},
            ensure_ascii=ascii_only,
        )
        for row in some
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        got = importer_in(Path(folder), stack)((ending.join(lines) + ending).encode(), holdout=0.3)
        assert list(got.reader.rows()) == some
        assert [got.reader[i] for i in range(len(got.reader))] == some
        sides = [*got.reader.indices("train"), *got.reader.indices("holdout")]
        assert sorted(sides) == list(range(len(some)))


json_keys = st.sampled_from(["messages", "role", "content", "label", "x", "prompt", "completion", "tools"])
json_text = st.sampled_from(
    ["user", "assistant", "system", "human", "gpt", "tool", "role", '"role"', "a", "", " ", "\\", "é", "\0"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | json_text,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(json_keys, children, max_size=3),
    max_leaves=12,
)
turn = st.fixed_dictionaries({"role": json_text, "content": json_text}, optional={"x": json_values})
objects = (
    st.fixed_dictionaries(
        {}, optional={"messages": st.lists(turn, max_size=4), "label": json_text, "x": json_values}
    )
    | st.fixed_dictionaries(
        {
            "conversations": st.lists(
                st.fixed_dictionaries({"from": json_text, "value": json_text}), max_size=4
            )
        },
        optional={"x": json_text, "system": json_text},
    )
    | st.fixed_dictionaries(
        {"instruction": json_text, "output": json_text},
        optional={"input": json_text, "x": json_text, "system": json_text},
    )
    | st.fixed_dictionaries(
        {}, optional={"x": json_text, "prompt": json_text, "completion": json_text, "label": json_text}
    )
    | json_values
)
PAIR = ColumnMap(input="prompt", output="completion")
SWAPPED = {"assistant": "user", "user": "assistant", "a": "tool"}
shapes = st.sampled_from(
    [
        ConversationShape(CHAT),
        ConversationShape(CHAT, labelled=True, system="S"),
        ConversationShape(CHAT, groups=("x",), ignored=("label",)),
        ConversationShape(SHAREGPT, groups=("x",), system="S"),
        ConversationShape(
            spelt(ColumnMap(messages="messages", roles=SWAPPED), {}), ignored=("x",), closed=False
        ),
        AlpacaShape(groups=("x",)),
        FieldsShape(Columns(PAIR), closed=True),
        FieldsShape(Columns(PAIR, labelled=True), closed=True, ignored=("x",)),
        FieldsShape(
            Columns(ColumnMap(input="prompt", label="completion", system="x"), system="S"), closed=False
        ),
        FieldsShape(Columns(ColumnMap(text="prompt", groups=("x",))), closed=True, ignored=("label",)),
    ]
)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(objects, shapes, st.data())
def test_the_quick_way_takes_nothing_that_the_exact_way_refuses(value, shape, data):
    line = json.dumps(value).encode()
    if data.draw(st.booleans()) and line.count(b'"') > 2:
        # Repeat a member, perhaps spelling its key with an escape.
        key = data.draw(
            st.sampled_from([b'"role"', b'"content"', b'"messages"', b'"prompt"', b'"r\\u006fle"'])
        )
        line = line.replace(b"{", b"{" + key + b':"a",', 1)
    row, faults = parse_line(line, shape)
    quick = quick_rows(line, [line], shape)
    assert (row is None) == bool(faults)
    if quick is not None:
        assert not faults
        assert quick == [row]


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.lists(objects, max_size=40), shapes, st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_a_block_gives_what_its_lines_give_one_by_one(values, shape, ending):
    lines = [json.dumps(value, ensure_ascii=False) for value in values]
    problems: list[Problem] = []
    found = read_block(
        Block(7, "".join(f"{line}{ending}" for line in lines).encode()), ProblemLog(problems.append), shape
    )
    apart = [parse_line(line.encode(), shape) for line in lines]
    assert found == [row for row, _ in apart if row is not None]
    at = [7 + n * ending.count("\n") for n, (_, faults) in enumerate(apart) for _ in faults]
    assert [(problem.line, problem.rule) for problem in problems] == list(
        zip(at, [fault.rule for _, faults in apart for fault in faults], strict=True)
    )


@pytest.mark.parametrize(
    "told",
    [
        '"content":"z","content":"a"',
        '"content":"a","cont\\u0065nt":"z"',
        '"role":"user","content":"\\u0022\\u0022"',
        '"role":"user","content":"\\\\"',
    ],
)
@pytest.mark.parametrize("makeup", ["\\\\", "\\u0022", "\\u005c", '\\"', "\\\\\\\\"])
@pytest.mark.parametrize("times", range(6))
def test_texts_full_of_quotes_and_backslashes_hide_no_repeated_name(told, makeup, times):
    """What ends with a backslash has one quote less that is counted: never enough to make up for a name."""
    twice = f'{{"messages":[{{"role":"user",{told}}},{{"role":"assistant","content":"b"}}]}}'
    covers = [GOOD.replace('"a"', f'"x{makeup}"')] * times
    problems: list[Problem] = []
    data = "".join(f"{line}\n" for line in (*covers, twice)).encode()
    found = read_block(Block(1, data), ProblemLog(problems.append), ConversationShape(CHAT))
    assert [problem.line for problem in problems] == [times + 1]
    assert len(found) == times


def test_a_mapped_column_of_turns_keeps_the_tools_beside_it(bring_in):
    function = {"type": "function", "function": {"name": "f", "parameters": {}}}
    plain = {"talk": json.loads(GOOD)["messages"]}
    rows = [plain, {**plain, "tools": [function]}, {**plain, "functions": [function["function"]]}]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    got = bring_in(data, columns=ColumnMap(messages="talk"))
    assert [row.tools and json.loads(row.tools) for row in got.reader.rows()] == [
        None,
        [function],
        [function],
    ]
