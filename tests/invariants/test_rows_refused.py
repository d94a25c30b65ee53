"""A row without supervised tokens is refused, and nothing is truncated silently."""

from __future__ import annotations

from typing import Any

import pytest

import tiny
from cloister.datasets.rows import Message, Row
from cloister.errors import InvalidInput
from cloister.training.rows import RowSource, tokenise

SECRET = "the quick brown canary"


def refused(rows: list[Row], tokenizer: Any, limit: int = 128) -> dict[str, list[int]]:
    with pytest.raises(InvalidInput) as caught:
        tokenise(RowSource(rows, range(len(rows))), tokenizer, limit)
    assert SECRET not in str(caught.value)
    assert SECRET not in str(caught.value.values)
    found: dict[str, list[int]] = caught.value.values["rows"]
    return found


def test_a_row_without_supervised_tokens_is_refused() -> None:
    """A template that marks nothing as generated: the mask is empty, and elsewhere the run looks healthy."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tiny.TEMPLATE.replace(
        "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}",
        "{% generation %}{% endgeneration %}{{ m['content'] }}<|end|>",
    )
    rows = [Row((Message("user", SECRET), Message("assistant", SECRET))) for _ in range(700)]
    numbers = [number for group in refused(rows, tokenizer).values() for number in group]
    assert sorted(numbers) == list(range(700))


def test_nothing_is_truncated_silently() -> None:
    rows = tiny.rows(1200)
    lengths = tokenise(RowSource(rows, range(1200)), tiny.tokenizer(), 512).lengths
    limit = int(sorted(lengths)[-40])
    too_long = [i for i, length in enumerate(lengths) if length > limit]
    assert len(too_long) > 3
    numbers = [n for group in refused(rows, tiny.tokenizer(), limit).values() for n in group]
    assert sorted(numbers) == too_long
    kept = [i for i in range(1200) if i not in set(too_long)]
    assert tokenise(RowSource(rows, kept), tiny.tokenizer(), limit).lengths.tolist() == [
        lengths[i] for i in kept
    ]
