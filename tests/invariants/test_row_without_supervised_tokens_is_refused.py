"""A row without supervised tokens is refused."""

from __future__ import annotations

from tests.invariants.refusals import SECRET, refused

import tiny
from cloister.datasets.rows import Message, Row


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


def test_a_text_of_one_token_is_refused() -> None:
    """Nothing stands before it that it could be learnt from."""
    rows = [Row(text="a"), Row(text="ab"), Row(text="a")]
    assert refused(rows, tiny.tokenizer()) == {"has no supervised token": [0, 2]}
