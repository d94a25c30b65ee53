from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.evaluation.metrics import accuracy, agreement, exact_match, macro_f1

LABELS = st.sampled_from(["lost card", "refund", "login", "other"])


def test_exact_match_ignores_white_space_at_the_ends_alone() -> None:
    assert exact_match([" a b\n", "a  b", "A b"], ["a b", "a b", "a b"]) == pytest.approx(1 / 3)


def test_a_thought_before_an_answer_is_no_part_of_it() -> None:
    """Qwen 3 writes one before every answer that it was asked for, an empty one where it was taught so."""
    answers = ["<think>\n\n</think>\n\nelm", "<think>\nelm or ash?\n</think>\n\nash", "<think>elm elm elm"]
    assert exact_match(answers, ["elm", "<think>It burnt.</think>ash", "elm"]) == pytest.approx(2 / 3)
    assert accuracy(answers[:2], ["elm", "ash"]) == macro_f1(answers[:2], ["elm", "ash"]) == 1


def test_macro_f1_by_hand() -> None:
    labels = ["x", "x", "x", "y", "y", "z"]
    answers = ["x", "x", "y", "y", "nonsense", "x"]
    # x: 2 hits, said 3, wanted 3 → 2/3; y: 1 hit, said 2, wanted 2 → 1/2; z: never said → 0
    assert macro_f1(answers, labels) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


@settings(max_examples=80, derandomize=True)
@given(pairs=st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=40), seed=st.randoms())
def test_bounds_and_order(pairs: list[tuple[str, str]], seed: object) -> None:
    answers, labels = [a for a, _ in pairs], [b for _, b in pairs]
    f1, right = macro_f1(answers, labels), accuracy(answers, labels)
    assert 0 <= f1 <= 1
    assert macro_f1(labels, labels) == accuracy(labels, labels) == 1
    assert (right == 1) == (f1 == pytest.approx(1))
    turned = list(reversed(pairs))
    assert macro_f1([a for a, _ in turned], [b for _, b in turned]) == pytest.approx(f1)


def test_agreement_is_of_whole_answers() -> None:
    assert agreement([[1, 2], [3]], [(1, 2), [3, 4]]) == 0.5


@pytest.mark.parametrize("metric", [exact_match, accuracy, macro_f1, agreement])
def test_lists_must_fit(metric: object) -> None:
    with pytest.raises(ValueError):
        metric(["a"], [])  # type: ignore[operator]
    with pytest.raises(ValueError):
        metric([], [])  # type: ignore[operator]
