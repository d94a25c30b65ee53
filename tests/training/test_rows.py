"""Rows as arrays: nothing lost, nothing cut, padding on the right."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from cloister.datasets.rows import Message, Row
from cloister.errors import InvalidInput
from cloister.planning.memory import BYTES_A_TOKEN
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


def test_rows_take_the_memory_that_is_planned_and_never_twice_that() -> None:
    ids, mask = list(range(200)) * 5, [True, False] * 500
    tracemalloc.start()
    try:
        made = TokenRows.of([(ids, mask)] * 20_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = made.input_ids.nbytes + made.supervised.nbytes
    assert kept == BYTES_A_TOKEN * 20_000_000
    assert peak < 1.2 * kept
    assert made.batch([19_999]).input_ids[0].tolist() == ids


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


@pytest.mark.parametrize("packed", [True, False])
def test_the_hardest_batch_is_as_long_and_as_much_learnt_as_any(packed: bool) -> None:
    """The longest row may have little to learn, and one a little shorter much: logits take most of a step's memory."""
    rows = [([1] * 21, [False] * 20 + [True]), ([2] * 19, [False] * 4 + [True] * 15), ([3, 3], [False, True])]
    batch = TokenRows.of(rows).hardest(3, packed=packed)
    assert batch.tokens == 63 and int(batch.supervised.sum()) == 45
    assert (batch.input_ids[batch.supervised] == 1).all(), "no padding is learnt"
    starts = batch.supervised[0, ::21] if packed else batch.supervised[:, 0]
    assert not starts.any() and (batch.borders is not None) == packed


def test_rows_that_the_template_refuses_are_named_too() -> None:
    """A template that takes no system turn says so of a whole batch, and not of which row."""
    rows = tiny.rows(30)
    for number in (4, 21):
        rows[number] = Row((Message("system", "a secret"), *rows[number].messages))
    tokenizer = tiny.tokenizer()
    no_system = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception(messages[0]['content']) }}{% endif %}"
    )
    tokenizer.chat_template = no_system + tokenizer.chat_template
    with pytest.raises(InvalidInput, match="2 of 30 rows") as caught:
        tokenise(RowSource(rows, range(30)), tokenizer, 128)
    assert caught.value.values["rows"] == {"is refused by the chat template": [4, 21]}
    assert "secret" not in str(caught.value)
