"""Files as other tools write them: each becomes the rows that its writer meant, or is refused by name."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloister.api import ColumnMap
from cloister.datasets import Message, Row
from cloister.datasets.rows import ToolCall
from cloister.errors import InvalidInput

if TYPE_CHECKING:  # of which folder's `conftest` the others' order decides
    from conftest import Importer

ASK, SAY = Message("user", "Wo ist Jürgen?"), Message("assistant", "In Köln.")
PAIR = Row((ASK, SAY))
FLAT = {"name": "find", "parameters": {"type": "object"}}
TOOLS = json.dumps([{"type": "function", "function": FLAT}])
FOUND = Row(
    (
        ASK,
        Message("assistant", "", (ToolCall("find", '{"who": "Jürgen"}'),)),
        Message("tool", "Köln"),
        SAY,
    ),
    tools=TOOLS,
)
CALL = {"name": "find", "arguments": json.dumps({"who": "Jürgen"})}  # as OpenAI's clients write it: \u00fc
TURNS = [{"role": "user", "content": ASK.content}, {"role": "assistant", "content": SAY.content}]
SPOKEN = [{"from": "human", "value": ASK.content}, {"from": "gpt", "value": SAY.content}]

JSON: dict[str, tuple[dict[str, Any], dict[str, Any] | None, Row]] = {
    "OpenAI fine-tuning, tools": (
        {
            "messages": [
                TURNS[0],
                {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "annotations": [],
                    "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": CALL}],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "Köln"},
                TURNS[1],
            ],
            "tools": [{"type": "function", "function": FLAT}],
            "parallel_tool_calls": False,
        },
        {"ignore": ["parallel_tool_calls"]},
        FOUND,
    ),
    "OpenAI fine-tuning, functions": (
        {
            "messages": [
                TURNS[0],
                {"role": "assistant", "content": None, "function_call": CALL},
                {"role": "function", "name": "find", "content": "Köln"},
                TURNS[1],
            ],
            "functions": [FLAT],
        },
        None,
        FOUND,
    ),
    "LLaMA-Factory's glaive": (
        {
            "conversations": [
                SPOKEN[0],
                {"from": "function_call", "value": json.dumps({"name": "find", "arguments": {"who": "Jürgen"}})},
                {"from": "observation", "value": "Köln"},
                SPOKEN[1],
            ],
            "tools": json.dumps([FLAT]),
        },
        None,
        FOUND,
    ),
    "a system turn without text": ({"messages": [{"role": "system", "content": ""}, *TURNS]}, None, PAIR),
    "a system turn of null": ({"messages": [{"role": "system", "content": None}, *TURNS]}, None, PAIR),
    "ShareGPT, a system turn without text": (
        {"conversations": [{"from": "system", "value": " "}, *SPOKEN], "system": ""},
        None,
        PAIR,
    ),
    "ShareGPT's roles in OpenAI's fields": (
        {"conversations": [{"role": "human", "content": ASK.content}, {"role": "gpt", "content": SAY.content}]},
        None,
        PAIR,
    ),
    "turns as the text of JSON": ({"messages": json.dumps(TURNS)}, None, PAIR),
    "ShareGPT as the text of JSON": ({"conversations": json.dumps(SPOKEN)}, None, PAIR),
    "another name for the turns": ({"chat": TURNS, "id": 7, "scores": {"a": [1]}}, {"messages": "chat"}, PAIR),
    "another name for ShareGPT's": ({"dialog": SPOKEN, "id": 7}, {"messages": "dialog"}, PAIR),
    "other names for everything": (
        {"log": [{"who": "customer", "text": ASK.content}, {"who": "agent", "text": SAY.content, "at": "9:00"}]},
        {
            "messages": "log",
            "role": "who",
            "content": "text",
            "roles": {"customer": "user", "agent": "assistant"},
            "ignore": ["at"],
        },
        PAIR,
    ),
    "Hermes, its calls as text": (
        {
            "id": "1",
            "conversations": [
                SPOKEN[0],
                {"from": "gpt", "value": "<tool_call>\n{'name': 'find'}\n</tool_call>"},
                {"from": "tool", "value": "<tool_response>\n'Köln'\n</tool_response>"},
                SPOKEN[1],
            ],
            "category": "search",
        },
        {"messages": "conversations", "roles": {"tool": "user"}},
        Row(
            (
                ASK,
                Message("assistant", "<tool_call>\n{'name': 'find'}\n</tool_call>"),
                Message("user", "<tool_response>\n'Köln'\n</tool_response>"),
                SAY,
            )
        ),
    ),
    "roles turned round": (
        {"messages": [{"role": "assistant", "content": ASK.content}, {"role": "user", "content": SAY.content}]},
        {"messages": "messages", "roles": {"assistant": "user", "user": "assistant"}},
        PAIR,
    ),
    "Dolly": (
        {"instruction": "Sum up.", "context": "A text.", "response": "It is.", "category": "summary"},
        {"input": "instruction", "context": "context", "output": "response"},
        Row((Message("user", "Sum up.\nA text."), Message("assistant", "It is."))),
    ),
    "a number for a class": (
        {"text": "t", "intent": 11, "score": 1e400},
        {"input": "text", "label": "intent"},
        Row((Message("user", "t"), Message("assistant", "11")), "11"),
    ),
    "a pair with a system message": (
        {"prompt": "p", "completion": "c", "system": "S"},
        None,
        Row((Message("system", "S"), Message("user", "p"), Message("assistant", "c"))),
    ),
    "a huge number beside": (
        {"prompt": ASK.content, "completion": SAY.content, "id": 10**400},
        {"ignore": ["id"]},
        PAIR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_json_of_others(bring_in: Importer, name: str) -> None:
    value, columns, row = JSON[name]
    line = json.dumps(value).replace("Infinity", "1e400").encode()
    given = ColumnMap(**columns) if columns else None
    assert list(bring_in(line + b"\r\n" + line, columns=given).reader.rows()) == [row, row]
    assert list(bring_in(b"[" + line + b"]", columns=given).reader.rows()) == [row]


def test_a_turn_that_says_more_than_is_known_is_refused_and_may_be_let_through(bring_in: Importer) -> None:
    weighed = json.dumps({"messages": [TURNS[0], {**TURNS[1], "weight": 0}]}).encode()
    with pytest.raises(InvalidInput) as refused:
        bring_in(weighed)
    assert [problem.field for problem in bring_in.problems] == ["messages[1].weight"]
    assert "--ignore, and is then not heeded" in str(refused.value.remedy)
    assert bring_in(weighed, columns=ColumnMap(ignore=("weight",))).reader[0] == PAIR


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            {"conversations": [{"from": "system", "value": "A"}, *SPOKEN], "system": "B"},
            "system: says something else than the system turn",
        ),
        (
            {"messages": [TURNS[0], {**TURNS[1], "function_call": CALL, "tool_calls": [{"function": CALL}]}]},
            "messages[1].function_call: stands beside `tool_calls`",
        ),
        (
            {"messages": TURNS, "tools": [FLAT], "functions": [FLAT]},
            "functions: stands beside `tools`, which says the same",
        ),
        ({"messages": "[" + '{"a":' * 90_000}, "messages: must be an array of turns"),
        ({"messages": [TURNS[0], TURNS[0], TURNS[1]]}, "messages[1].role: two user turns in a row"),
    ],
)
def test_what_says_two_things_is_refused(bring_in: Importer, line: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput):
        bring_in(json.dumps(line).encode())
    assert bring_in.lines() == [f"rows.txt:1: {told}"]


def test_a_mapped_role_counts_and_not_the_one_that_is_written(bring_in: Importer) -> None:
    swapped = ColumnMap(messages="messages", roles={"assistant": "user", "user": "assistant"})
    with pytest.raises(InvalidInput):
        bring_in(json.dumps({"messages": TURNS}).encode(), columns=swapped)
    assert "messages[0].role: the first turn after the system's must be the user's" in bring_in.lines()[0]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (ColumnMap(messages="a", input="b"), "stands alone"),
        (ColumnMap(roles={"x": "user"}), "column of turns must be given"),
        (ColumnMap(context="a"), "input column must be given"),
    ],
)
def test_mappings_of_turns_that_make_no_row(bring_in: Importer, columns: ColumnMap, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        bring_in(b'{"a":[]}\n', columns=columns)


def test_a_table_has_no_column_of_turns(bring_in: Importer) -> None:
    with pytest.raises(InvalidInput, match="a table has no column of turns"):
        bring_in(b"a,prompt,completion\n1,2,3\n", columns=ColumnMap(messages="a"))


def parquet(content: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(content, out)
    return out.getvalue()


def test_parquet_of_others(bring_in: Importer) -> None:
    got = bring_in(parquet(pa.table({"chat": [TURNS], "id": [1]})), columns=ColumnMap(messages="chat"))
    assert list(got.reader.rows()) == [PAIR]
    assert bring_in(parquet(pa.table({"messages": [json.dumps(TURNS)]}))).reader[0] == PAIR
    raw = pa.table({"prompt": [ASK.content.encode()], "completion": [SAY.content.encode()]})
    assert bring_in(parquet(raw)).reader[0] == PAIR
    with pytest.raises(InvalidInput):
        bring_in(parquet(pa.table({"prompt": [b"\xff"], "completion": [b"x"]})))
    assert bring_in.lines() == ["rows.txt:row group 0, row 0: prompt: invalid UTF-8"]


def test_classes_have_the_names_that_hugging_face_wrote_into_the_file(bring_in: Importer) -> None:
    """As `datasets` writes a ClassLabel: numbers, and their names in the metadata of the schema."""
    columns = ColumnMap(input="text", label="label")
    table = pa.table({"text": ["a", "b"], "label": pa.array([1, 0], pa.int64())})
    assert [row.label for row in bring_in(parquet(table), columns=columns).reader.rows()] == ["1", "0"]
    told = {"info": {"features": {"label": {"names": ["lost", "stolen"], "_type": "ClassLabel"}}}}
    named = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    assert [row.label for row in bring_in(parquet(named), columns=columns).reader.rows()] == [
        "stolen",
        "lost",
    ]
    hidden = named.set_column(1, "label", pa.array([1, -1], pa.int64()))
    with pytest.raises(InvalidInput):
        bring_in(parquet(hidden), columns=columns)
    assert bring_in.lines() == [
        "rows.txt:row group 0, row 1: label: is the number of no class that the file names"
    ]
    for broken in ('{"info":', '{"info": {"features": {"label": 3}}}', '{"info": []}', "[" * 100_000):
        odd = table.replace_schema_metadata({"huggingface": broken})
        assert bring_in(parquet(odd), columns=columns).reader[0].label == "1"


PREFERRED: dict[str, dict[str, Any]] = {
    "two answers": {"prompt": "Q", "chosen": "Zanzibar", "rejected": "B"},
    "two answers of turns": {"prompt": [TURNS[0]], "chosen": [TURNS[1]], "rejected": [TURNS[1]]},
    "two conversations": {"chosen": TURNS, "rejected": TURNS},
    "two answers to ShareGPT": {"conversations": SPOKEN[:1], "chosen": SPOKEN[1], "rejected": SPOKEN[1]},
    "judged": {"prompt": "Q", "completion": "Zanzibar", "label": False},
    "judged turns": {"messages": TURNS, "label": True},
}


@pytest.mark.parametrize("name", PREFERRED)
def test_data_about_preferences_is_refused_as_that(bring_in: Importer, name: str) -> None:
    """TRL's and LLaMA-Factory's forms. An unwanted answer is never learnt like a wanted one."""
    row = PREFERRED[name]
    for source in (json.dumps(row).encode(), json.dumps([row, row], indent=2).encode()):
        with pytest.raises(InvalidInput, match="looks like preference data") as refused:
            bring_in(source)
        assert "Zanzibar" not in str(refused.value)
        assert len(bring_in.lines()) == 1  # once, and not for each row
    if "ShareGPT" not in name:
        with pytest.raises(InvalidInput, match="looks like preference data"):
            bring_in(parquet(pa.Table.from_pylist([row])))


def test_a_class_that_is_true_or_false_is_no_preference(bring_in: Importer) -> None:
    spam = {"text": "Win now", "label": True}
    for source in (json.dumps(spam).encode(), parquet(pa.Table.from_pylist([spam]))):
        with pytest.raises(InvalidInput, match="`text` and other fields"):
            bring_in(source)
        named = bring_in(source, columns=ColumnMap(input="text", label="label"))
        assert named.reader[0].label == "true"


def test_of_preferences_the_wanted_answers_can_be_learnt(bring_in: Importer) -> None:
    pair = {"prompt": ASK.content, "chosen": SAY.content, "rejected": "x"}
    chosen = ColumnMap(input="prompt", output="chosen")
    for source in (json.dumps(pair).encode(), parquet(pa.Table.from_pylist([pair]))):
        assert bring_in(source, columns=chosen).reader[0] == PAIR
    with pytest.raises(InvalidInput, match="looks like preference data"):
        bring_in(b"prompt,chosen,rejected\nQ,A,B\n")
    table = f"prompt,chosen,rejected\n{ASK.content},{SAY.content},x\n".encode()
    assert bring_in(table, columns=chosen).reader[0] == PAIR
    judged = {"prompt": ASK.content, "completion": SAY.content, "label": True}
    ignored = ColumnMap(ignore=("label",))
    for source in (json.dumps(judged).encode(), parquet(pa.Table.from_pylist([judged]))):
        assert bring_in(source, columns=ignored).reader[0] == PAIR
    # Hugging Face's file for supervised learning has all of them; its turns are the wanted ones.
    both = {"prompt": "Q", "messages": TURNS, "chosen": TURNS, "rejected": TURNS}
    assert bring_in(parquet(pa.Table.from_pylist([both]))).reader[0] == PAIR


EXCEL = (
    'sep=;\r\nFrage;Antwort;Ort\r\nWo ist Jürgen?;In Köln.;Ulm\r\n;;\r\n"Zwei; und\r\nmehr – €";ja;\r\n;;\r\n'
)
ASKED = ["Wo ist Jürgen?", "Zwei; und\r\nmehr – €"]
QUESTIONS = ColumnMap(input="Frage", output="Antwort", groups=("Ort",))


@pytest.mark.parametrize(
    ("mark", "encoding", "told"),
    [
        (b"", "utf-8", "auto"),
        (b"\xef\xbb\xbf", "utf-8", "auto"),
        (b"\xff\xfe", "utf-16-le", "auto"),
        (b"\xfe\xff", "utf-16-be", "auto"),
        (b"", "utf-16-le", "utf-16-le"),
        (b"\xff\xfe", "utf-16-le", "utf-16-le"),
        (b"", "windows-1252", "windows-1252"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_tables_from_a_spreadsheet(
    bring_in: Importer, mark: bytes, encoding: str, told: str, packed: bool
) -> None:
    data = mark + EXCEL.encode(encoding)
    got = bring_in(gzip.compress(data) if packed else data, columns=QUESTIONS, encoding=told)
    assert [row.messages[0].content for row in got.reader.rows()] == ASKED
    assert [row.groups for row in got.reader.rows()] == [{"Ort": "Ulm"}, {}]


def test_json_and_prose_in_utf_16(bring_in: Importer) -> None:
    many = [{"messages": TURNS}] * 3000  # more than one chunk, cut within characters
    for text in (
        json.dumps(many, ensure_ascii=False),
        "\n".join(json.dumps(m, ensure_ascii=False) for m in many),
    ):
        got = bring_in(text.encode("utf-16"))
        assert got.summary.rows == 3000
        assert got.reader[2999] == PAIR
    assert [row.text for row in bring_in("Über\n\nuns\n".encode("utf-16")).reader.rows()] == ["Über", "uns"]


def test_text_in_another_encoding_than_was_said_is_refused_by_line(bring_in: Importer) -> None:
    with pytest.raises(InvalidInput) as refused:
        bring_in(EXCEL.encode("windows-1252"), columns=QUESTIONS)
    assert "--encoding windows-1252" in str(refused.value.remedy)
    assert bring_in.lines()[0] == "rows.txt:3: row: invalid UTF-8 at byte 9 of line 3"
    with pytest.raises(InvalidInput, match="has bytes that are not windows-1252"):
        bring_in("a\nb\n\u0081".encode("latin-1"), encoding="windows-1252")
    assert bring_in.lines() == ["rows.txt:3: row: has bytes that are not windows-1252"]
    with pytest.raises(InvalidInput, match="UTF-32"):
        bring_in("text".encode("utf-32"))
    with pytest.raises(InvalidInput, match="not utf-16-le"):
        bring_in("ab\n".encode("utf-16") + b"\0")
    header = "Größe,prompt,completion\n1,2,3\n".encode("latin-1")
    with pytest.raises(InvalidInput, match="the header line has invalid UTF-8") as refused:
        bring_in(header)
    assert "--encoding" in str(refused.value.remedy)


@pytest.mark.parametrize(
    "table",
    [
        b'question,answer\n"Hello, you, there",x\n"a",b\n',
        b'"id","text"\n1,"One, two.\n\nThree, four."\n',
        b'ask;say\nWell, "quoted" badly;x\n"',
        b"question|answer\na, b|c\n",
        b"sep=;\nany header; of prose\n",
        b"| prompt | completion |\n|---|---|\n| a | b |\n",
    ],
)
def test_a_table_without_a_mapping_is_never_taken_for_prose(bring_in: Importer, table: bytes) -> None:
    with pytest.raises(InvalidInput, match="is not in the header") as refused:
        bring_in(table)
    assert "--format text" in str(refused.value.remedy)


def test_what_looks_like_prose_and_is_none_is_refused(bring_in: Importer) -> None:
    with pytest.raises(InvalidInput, match="bare carriage returns"):
        bring_in(b"prompt,completion\ra,b\rc,d\r")
    for markup in (b'\xef\xbb\xbf<?xml version="1.0"?>\n<row>a</row>\n', b"\n<!DOCTYPE html>\n<p>a</p>\n"):
        with pytest.raises(InvalidInput, match="in markup") as refused:
            bring_in(markup)
        assert "--format text" in str(refused.value.remedy)
        assert bring_in(markup, format="text").summary.rows == 1


def test_columns_between_bars(bring_in: Importer) -> None:
    got = bring_in(b"prompt|completion\nWo?|Hier, dort.\n")
    assert got.reader[0] == Row((Message("user", "Wo?"), Message("assistant", "Hier, dort.")))


def lines(*prompts: str) -> bytes:
    return b"".join(json.dumps({"prompt": p, "completion": "c"}).encode() + b"\n" for p in prompts)


def test_several_files_are_one_dataset(bring_in: Importer) -> None:
    table = pa.table({"prompt": ["c", "d"], "completion": ["c", "c"]})
    got = bring_in(lines("a", "b"), more=[parquet(table), gzip.compress(b"prompt,completion\ne,c\n")])
    assert [row.messages[0].content for row in got.reader.rows()] == ["a", "b", "c", "d", "e"]
    shards = [lines(*(f"{n} {shard}" for n in range(100))) for shard in range(3)]
    together = bring_in(b"".join(shards), holdout=0.3).reader
    apart = bring_in(shards[0], more=shards[1:], holdout=0.3).reader
    assert list(apart.rows()) == list(together.rows())
    assert list(apart.indices("holdout")) == list(together.indices("holdout"))


def test_of_several_files_the_one_at_fault_is_named(bring_in: Importer) -> None:
    with pytest.raises(InvalidInput, match="2 of 4 rows are bad"):
        bring_in(lines("a", ""), more=[lines("b", "")])
    assert bring_in.lines() == ["rows.txt:2: prompt: is empty", "more-1:2: prompt: is empty"]
    with pytest.raises(InvalidInput, match="more-2") as refused:
        bring_in(lines("a"), more=[lines("b"), b'[{"prompt":"c","completion":"d"}'])
    assert bring_in.lines() == ["more-2:1: row: the array is never closed"]
    assert refused.value.values["rows"] == 3
    with pytest.raises(InvalidInput, match="its rows are for text, those before it for chat") as refused:
        bring_in(lines("a"), more=[b'{"text":"prose"}\n'])
    assert refused.value.where == "more-1"
    with pytest.raises(InvalidInput, match="is empty") as refused:
        bring_in(lines("a"), more=[b""])
    assert refused.value.where == "more-1"
