"""The report of one evaluation: a model's answers turned into numbers, and two models side by side.

Numbers go into the report, texts only into samples. Knows no model and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cloister.evaluation.metrics import accuracy, exact_match, macro_f1, same


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row's answers. `row` counts from 0, as in the dataset. Content: it is only ever stored sealed.

    `right` is the tuned answer's deciding figure, the larger the better. `others` are the answers of the table's other
    lines, by name.
    """

    row: int
    expected: str
    base: str
    tuned: str
    question: str = ""
    right: float | None = None
    others: dict[str, str] = {}
    groups: dict[str, str] = {}

    @property
    def badness(self) -> tuple[float, int]:
        """The worst first."""
        right = self.right if self.right is not None else float(same(self.tuned, self.expected))
        return right, self.row


class Scores(msgspec.Struct, frozen=True, omit_defaults=True):
    """How well one model did. `loss` is nats a supervised token; the others are for rows with an answer, the last two
    for labelled tasks."""

    loss: float
    exact_match: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None


def score(
    loss: float, answers: Sequence[str], expected: Sequence[str], labels: Sequence[str] | None
) -> Scores:
    """The numbers of one model. `labels` where every row has one; no answers where the rows are plain text."""
    if not answers:
        return Scores(loss)
    match = exact_match(answers, expected)
    if labels is None:
        return Scores(loss, match)
    return Scores(loss, match, accuracy(answers, labels), macro_f1(answers, labels))


def compare(base: Scores, tuned: Scores, rows: int, **facts: Any) -> dict[str, Any]:
    """Base against tuned as plain numbers; `facts` are further numbers or short words."""
    return {"base": msgspec.to_builtins(base), "tuned": msgspec.to_builtins(tuned), "rows": rows, **facts}


def encode_samples(samples: Sequence[Sample]) -> bytes:
    """Samples as MessagePack: one array of them."""
    return msgspec.msgpack.encode(samples)


def decode_samples(data: bytes) -> list[Sample]:
    """The inverse of `encode_samples`."""
    return msgspec.msgpack.decode(data, type=list[Sample])
