"""1×8 accumulation ≡ 8×1: how a step's rows are split changes nothing but the memory it takes."""

from __future__ import annotations

import pytest
import torch

import tiny


def test_one_by_eight_equals_eight_by_one() -> None:
    at_once = tiny.fine_tune(tiny.config(micro_batch_size=8))
    for size in (1, 3):
        split = tiny.fine_tune(tiny.config(micro_batch_size=size))
        assert split.losses == pytest.approx(at_once.losses, rel=1e-5)
        assert split.holdout_losses[-1][1] == pytest.approx(at_once.holdout_losses[-1][1], rel=1e-5)
        for name, tensor in at_once.last.items():
            torch.testing.assert_close(split.last[name], tensor, rtol=1e-2, atol=1e-4)


def test_rows_with_many_supervised_tokens_weigh_more() -> None:
    """The mean is over tokens, not over micro-batches: the two differ where answers differ in length.

    The rows are of one length, question and answer together: a step's rows are chosen to be of like length.
    """
    from cloister.datasets.rows import Message, Row

    answers = ["ab" * (1 + 9 * (i % 2)) for i in range(64)]
    data = [Row((Message("user", "q" * (30 - len(a))), Message("assistant", a))) for a in answers]
    one, other = (tiny.fine_tune(tiny.config(micro_batch_size=size), data=data) for size in (1, 8))
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
