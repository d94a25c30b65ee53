"""Nothing is truncated silently: what is too long refuses the run, every such row by its number."""

from __future__ import annotations

from tests.invariants.refusals import refused

import tiny
from cloister.training.rows import RowSource, tokenise


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
