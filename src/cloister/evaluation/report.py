"""The report of one evaluation: a model's answers turned into numbers, and two models side by side.

Numbers go into the report, texts only into samples. Knows no model and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cloister.evaluation.metrics import accuracy, exact_match, macro_f1


class Sample(msgspec.Struct, frozen=True):
    """One row's answers. `row` counts from 0, as in the dataset. Content: it is only ever stored sealed."""

    row: int
    expected: str
    base: str
    tuned: str


class Scores(msgspec.Struct, frozen=True, omit_defaults=True):
    """How well one model did. `loss` is nats a supervised token; the last two are for labelled tasks."""

    loss: float
    exact_match: float
    accuracy: float | None = None
    macro_f1: float | None = None


def score(
    loss: float, answers: Sequence[str], expected: Sequence[str], labels: Sequence[str] | None
) -> Scores:
    """The numbers of one model. `labels` where every row has one."""
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
