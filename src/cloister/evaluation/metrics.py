"""Numbers about answers: exact match, accuracy, macro-F1. Works on strings; knows no model and no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers equal to what is expected, white space at the ends aside."""
    pairs = _paired(answers, expected)
    return sum(answer.strip() == wanted.strip() for answer, wanted in pairs) / len(pairs)


def accuracy(answers: Sequence[str], labels: Sequence[str]) -> float:
    """The share of answers that name the right label, white space at the ends aside."""
    return exact_match(answers, labels)


def macro_f1(answers: Sequence[str], labels: Sequence[str]) -> float:
    """The mean over the labels that occur of each one's F1.

    An answer that is no label counts against the label it should have been, and makes no class of its own.
    """
    pairs = [(answer.strip(), label.strip()) for answer, label in _paired(answers, labels)]
    hits = Counter(label for answer, label in pairs if answer == label)
    said = Counter(answer for answer, _ in pairs)
    wanted = Counter(label for _, label in pairs)
    # F1 = 2·hits / (said + wanted), and no label of `wanted` has a zero below the line.
    return sum(2 * hits[label] / (said[label] + count) for label, count in wanted.items()) / len(wanted)


def agreement(answers: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """The share of rows whose two answers are the same tokens from first to last."""
    if len(answers) != len(others) or not answers:
        raise ValueError("agreement needs two lists of answers of one length, not empty")
    return sum(list(a) == list(b) for a, b in zip(answers, others, strict=True)) / len(answers)


def _paired(answers: Sequence[str], expected: Sequence[str]) -> list[tuple[str, str]]:
    if len(answers) != len(expected) or not answers:
        raise ValueError("a metric needs as many answers as expected values, and at least one")
    return list(zip(answers, expected, strict=True))
