from __future__ import annotations

import pytest

import tiny
from cloister.evaluation.loss import mean_loss
from cloister.evaluation.report import Sample, compare, decode_samples, encode_samples, score
from cloister.training.rows import RowSource, tokenise


def test_labelled_tasks_have_two_more_numbers() -> None:
    plain = score(1.5, ["a", "b"], ["a", "c"], None)
    labelled = score(0.5, ["a", "b"], ["a", "b"], ["a", "b"])
    assert compare(plain, labelled, 2, rank=8) == {
        "base": {"loss": 1.5, "exact_match": 0.5},
        "tuned": {"loss": 0.5, "exact_match": 1.0, "accuracy": 1.0, "macro_f1": 1.0},
        "rows": 2,
        "rank": 8,
    }


def test_the_worst_answers_are_not_those_after_a_thought() -> None:
    right, wrong = Sample(7, "elm", "", "<think>\n\n</think>\n\nelm"), Sample(9, "elm", "", "ash")
    assert sorted([right, wrong], key=lambda sample: sample.badness)[0] is wrong


def test_samples_come_back() -> None:
    samples = [Sample(i, "x", "y" * i, "z") for i in range(5)]
    assert decode_samples(encode_samples(samples)) == samples


def test_the_loss_does_not_depend_on_the_batches() -> None:
    model = tiny.model()
    tokens = tokenise(RowSource(tiny.rows(20), range(20)), tiny.tokenizer(), 128)
    losses = [
        mean_loss(model, (tokens.batch(indices) for indices in tokens.by_length(size))) for size in (1, 7, 20)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    with pytest.raises(ValueError):
        mean_loss(model, [])
