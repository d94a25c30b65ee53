"""Rows as arrays: nothing lost, nothing cut, padding on the right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from cloister.datasets.rows import Message, Row
from cloister.errors import InvalidInput
from cloister.training.rows import RowSource, TokenRows, tokenise

TOKENS = st.lists(st.tuples(st.integers(1, 30_000), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=50, derandomize=True)
@given(rows=st.lists(TOKENS, min_size=1, max_size=9), size=st.integers(1, 4))
def test_a_batch_holds_its_rows_and_nothing_else(rows: list[list[tuple[int, bool]]], size: int) -> None:
    made = TokenRows.of([([i for i, _ in row], [m for _, m in row]) for row in rows])
    seen: list[int] = []
    for indices in made.by_length(size):
        batch = made.batch(indices)
        assert batch.tokens == sum(len(rows[i]) for i in indices)
        for slot, i in enumerate(indices):
            length = len(rows[i])
            assert batch.input_ids[slot, :length].tolist() == [token for token, _ in rows[i]]
            assert batch.supervised[slot, :length].tolist() == [mask for _, mask in rows[i]]
            assert not batch.supervised[slot, length:].any()
        seen += indices
    assert sorted(seen) == list(range(len(rows)))
    counts = [sum(mask for _, mask in row[1:]) for row in rows]
    assert made.supervised_counts.tolist() == counts


def test_rows_are_named_by_their_number_in_the_dataset() -> None:
    rows = tiny.rows(40)
    secret = "a secret that no message may hold"
    rows[7] = Row((Message("user", secret * 9), Message("assistant", "x")))
    rows[31] = Row((Message("user", secret * 9), Message("assistant", "x")))
    with pytest.raises(InvalidInput) as caught:
        tokenise(RowSource(rows, [31, 2, 7, 3]), tiny.tokenizer(), 128)
    assert "31" in caught.value.message
    assert "7" in caught.value.message
    assert secret not in str(caught.value)
    assert sorted(caught.value.values["rows"].popitem()[1]) == [7, 31]


def test_chunks_of_a_long_dataset_are_one_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    source = RowSource(tiny.rows(23), range(23))
    whole = tokenise(source, tiny.tokenizer(), 128)
    monkeypatch.setattr("cloister.training.rows.CHUNK", 5)
    told: list[int] = []
    parts = tokenise(source, tiny.tokenizer(), 128, on_progress=lambda done, total: told.append(done))
    assert np.array_equal(whole.input_ids, parts.input_ids)
    assert np.array_equal(whole.offsets, parts.offsets)
    assert told == [5, 10, 15, 20, 23]
