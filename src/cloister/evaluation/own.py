"""A metric of the user's own over all answers: `def metric(prediction: str, expected: str, row: dict)`, a number or
numbers by name. It runs in a process of its own (`sandbox.confine`); here are its arguments and its columns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloister.datasets.rows import Message, Row
from cloister.errors import JobFailed
from cloister.evaluation.statistics import Floats
from cloister.sandbox.confine import Confined

MOST_COLUMNS = 8
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def columns(
    function: Confined,
    name: str,
    answers: Sequence[str],
    expected: Sequence[str],
    rows: Sequence[Row],
    source: bytes,
) -> dict[str, Floats]:
    """By column `own` or `own.NAME`, a number a row; NaN where it gave one that is not finite, or none by that name.

    Names leave the sandbox with the numbers: they stand in the metric's `source`, so that none is a word of a row.

    Raises:
        JobFailed: it failed, or named what is no name.
    """
    known = set(re.findall(r"\w+", source.decode(errors="replace")))
    found: dict[str, list[float]] = {}
    for number, (answer, wanted, row) in enumerate(zip(answers, expected, rows, strict=True)):
        value = function.call(answer, wanted, as_dict(row))
        given = (
            {f"own.{key}": one for key, one in value.items()} if isinstance(value, dict) else {"own": value}
        )
        for key, one in given.items():
            if key not in found:
                called = key.removeprefix("own.")
                written = called in known or key == "own"
                if len(found) >= MOST_COLUMNS or not written or not _NAME.fullmatch(called):
                    raise JobFailed(
                        "The metric fails: its numbers have too many names, or one that is none.",
                        where=name,
                        remedy=f"At most {MOST_COLUMNS} names of lower-case letters, digits and _, each written in its "
                        "file: a name that is put together there could be a word of a row.",
                    )
                found[key] = [math.nan] * len(rows)
            if isinstance(one, int | float) and math.isfinite(one):
                found[key][number] = float(one)
    return {key: np.array(numbers) for key, numbers in found.items()}


def deciding(tuned: Mapping[str, Floats], others: Sequence[Mapping[str, Floats]]) -> str | None:
    """The first of its columns by which the tuned model can be set against another line, on one row at least."""
    own = [name for name in tuned if name.startswith("own")]
    gains = ((name, tuned[name] - other[name]) for name in own for other in others if name in other)
    return next((name for name, gained in gains if not np.isnan(gained).all()), None)


def _turn(turn: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        found["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in turn.tool_calls]
    return found


def as_dict(row: Row) -> dict[str, Any]:
    """What a metric sees of a row."""
    return {
        "messages": [_turn(turn) for turn in row.messages],
        "label": row.label,
        "groups": dict(row.groups),
    }
