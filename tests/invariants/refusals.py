"""How a refusal of rows is looked at: which rows it names, and that it quotes none of them."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.datasets.rows import Row
from cloister.errors import InvalidInput
from cloister.training.rows import RowSource, tokenise

SECRET = "the quick brown canary"


def refused(rows: list[Row], tokenizer: Any, limit: int = 128) -> dict[str, list[int]]:
    """The numbers of the refused rows, by rule."""
    with pytest.raises(InvalidInput) as caught:
        tokenise(RowSource(rows, range(len(rows))), tokenizer, limit)
    assert SECRET not in str(caught.value)
    assert SECRET not in str(caught.value.values)
    found: dict[str, list[int]] = caught.value.values["rows"]
    return found
