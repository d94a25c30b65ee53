"""Parquet column by column: what is taken at once is what row by row gives, and the rest is left to that."""

from __future__ import annotations

import io
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.api import ColumnMap
from cloister.datasets import parquet
from cloister.datasets.batches import rows_at_once
from cloister.datasets.columns import PAIR, Columns
from cloister.datasets.dialogues import ConversationShape
from cloister.datasets.turns import CHAT, SHAREGPT
from cloister.errors import InvalidInput

texts = st.sampled_from(["a", "é ü", "x" * 300, " b ", "longer than most", "1"])
odd = st.sampled_from([None, "", " \n", "a\0b", "y" * 2000])
cell = st.one_of(*[texts] * 8, odd)
role = st.sampled_from(["user", "user", "assistant", "system", "tool", "human", "gpt", "developer", "robot"])
pair = [("user", "assistant"), ("human", "gpt")]


@st.composite
def talks(draw: Any, names: tuple[str, str]) -> list[dict[str, str | None] | None]:
    roles = draw(st.sampled_from([[], ["system"]])) + list(draw(st.sampled_from(pair))) * draw(
        st.integers(0, 2)
    )
    if draw(st.integers(0, 9)) == 0:
        roles.append(draw(role))
    return [dict(zip(names, (each, draw(cell)), strict=True)) for each in roles]


def of(**columns: Any) -> Any:
    """Rows with these columns; a type of one column is that of Arrow."""
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=12)


flat = of(prompt=cell, completion=cell, system=st.none() | cell, site=st.none() | texts, n=st.integers(0, 3))
chat = of(messages=talks(("role", "content")), site=st.none() | texts, tools=st.none())
sharegpt = of(conversations=talks(("from", "value")), system=st.none() | st.none() | texts)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    flat | chat | sharegpt,
    st.sampled_from([(), ("site",), ("n",)]),
    st.sampled_from([1024, 1 << 20]),
    st.sampled_from([None, "S"]),
)
def test_columns_give_what_rows_give(importer_in, some, groups, limit, system):
    kinds = {
        "messages": pa.list_(
            pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
        ),
        "conversations": pa.large_list(pa.struct([("from", pa.large_string()), ("value", pa.string())])),
        "n": pa.int64(),
    }
    groups = tuple(name for name in groups if name in some[0])
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in some[0]])
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(some, schema=schema), out, row_group_size=5)

    def read() -> tuple[Any, ...]:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            bring_in = importer_in(Path(folder), stack)
            try:
                got = bring_in(
                    out.getvalue(),
                    columns=ColumnMap(groups=groups),
                    max_dropped=100,
                    max_row_bytes=limit,
                    system_prompt=system,
                )
            except InvalidInput as error:
                return str(error), bring_in.lines()
            return list(got.reader.rows()), list(got.reader.indices("holdout")), bring_in.lines()

    found = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "rows_at_once", lambda batch, form, limit: None)
        assert read() == found


def test_usual_batches_are_taken_at_once():
    """Or it would be no gain: a null where nothing is said is usual, too."""
    turns = [
        {"role": "user", "content": "a", "name": None},
        {"role": "assistant", "content": "b", "name": None},
    ]
    spelt = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))
    batches = [
        (ConversationShape(CHAT, closed=False), {"messages": pa.array([turns] * 3, kind)}),
        (ConversationShape(SHAREGPT, closed=False), {"conversations": pa.array([spelt] * 3)}),
        (Columns(PAIR), {"prompt": pa.array(["a"] * 3), "completion": pa.array(["b"] * 3)}),
        (
            Columns(PAIR),
            {"prompt": ["a"] * 3, "completion": ["b"] * 3, "system": pa.array([None] * 3, pa.string())},
        ),
    ]
    for form, columns in batches:
        taken = rows_at_once(pa.RecordBatch.from_pydict(columns), form, 1 << 20)
        assert taken is not None
        assert [[m.content for m in row.messages] for row in taken.rows] == [["a", "b"]] * 3
        assert 6 <= taken.size < 1000
