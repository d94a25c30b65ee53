"""What of an evaluation is content, and goes into the sealed report alone: answers, and names of labels and groups.

Knows rows and what was measured on them; no model and no job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cloister.datasets.rows import Row
from cloister.evaluation.report import Sample
from cloister.evaluation.table import TUNED, Measured
from cloister.evaluation.tasks import Task
from cloister.training.rows import RowSource

MOST_GROUPS = 64


def groups(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[list[list[int]]]]:
    """The columns that the steward named with their groups, which are content, and the rows of each group."""
    columns: list[dict[str, Any]] = []
    positions: list[list[list[int]]] = []
    for name in sorted({name for row in rows for name in row.groups}):
        values = sorted({row.groups.get(name, "") for row in rows})
        if len(values) > MOST_GROUPS:
            continue
        columns.append({"column": name, "groups": values})
        places: dict[str, list[int]] = {value: [] for value in values}
        for i, row in enumerate(rows):
            places[row.groups.get(name, "")].append(i)
        positions.append([places[value] for value in values])
    return columns, positions


def by_label(task: Task, lines: Sequence[Measured]) -> list[dict[str, Any]]:
    """Of each label the share that each line got right. Labels are content."""
    if task.labels is None:
        return []
    found = []
    for number, name in enumerate(task.labels.names):
        those = [i for i, wanted in enumerate(task.wanted) if wanted == number]
        if those:
            right = {one.name: sum(one.scored.said[i] == number for i in those) / len(those) for one in lines}
            found.append({"label": name, "rows": len(those), "right": right})
    return found


def samples(
    holdout: RowSource,
    rows: Sequence[Row],
    task: Task,
    pair: tuple[Sequence[str], Sequence[str]],
    lines: Sequence[Measured],
    primary: str,
) -> list[Sample]:
    """Every row with all answers to it, those of the `pair` (base, tuned) first; `right` by the deciding figure."""
    base, answered = pair
    tuned = next((line for line in lines if line.name == TUNED), None)
    scored = tuned.scored if tuned is not None else task.score(answered)
    right = scored.columns.get(primary)
    others = [line for line in lines if line.name != TUNED and line.answers]
    return [
        Sample(
            int(holdout.indices[i]),
            task.expected[i],
            base[i],
            answered[i],
            "\n".join(turn.content for turn in row.prompt),
            None if right is None or np.isnan(right[i]) else float(right[i]),
            {line.name: line.answers[i] for line in others},
            dict(row.groups),
        )
        for i, row in enumerate(rows)
    ]
