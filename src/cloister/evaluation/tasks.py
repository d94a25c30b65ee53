"""What a dataset asks for, read off its rows, and how an answer to it is scored, row by row.

Five kinds: labels, JSON extraction, short answers, drafting, and plain text, which has no question and is told by
its loss. Knows rows and answers as text; no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cloister.errors import InvalidInput
from cloister.evaluation.metrics import (
    Glossary,
    Labels,
    call_text,
    fields_right,
    json_object,
    rouge_l,
    spoken,
    words,
)
from cloister.evaluation.statistics import Floats, Interval, macro_f1, mean

if TYPE_CHECKING:
    from cloister.datasets.rows import Row

Kind = Literal["label", "extraction", "answer", "drafting", "text"]
PRIMARY: dict[Kind, str] = {
    "label": "accuracy",
    "extraction": "field_accuracy",
    "answer": "exact_match",
    "drafting": "rouge_l",
    "text": "loss",
}
"""The figure that a verdict goes by."""
DRAFT_WORDS = 12
"""Expected answers longer than that, half of them at least, are drafts."""
MOST_VALUES = 12
"""A field whose values are no more than that, each of a few words, is a choice between them."""


@dataclass(frozen=True)
class Scored:
    """One model's answers, scored: by column, a number a row, NaN where a row has none. `said` are labels' numbers."""

    columns: dict[str, Floats]
    said: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """A kind, with what the rows expect. `labels` and `glossary` where there are some; `calls` where some rows expect
    calls of functions, which are then read, not compared to the letter."""

    kind: Kind
    expected: tuple[str, ...]
    labels: Labels | None = None
    glossary: Glossary | None = None
    wanted: tuple[int, ...] = field(default=(), repr=False)
    calls: bool = False

    @property
    def primary(self) -> str:
        return PRIMARY[self.kind]

    def read(self, answer: str) -> str:
        """What of an answer counts: without a thought before it; what it calls in one spelling, where calls count."""
        return call_text(answer) if self.calls else spoken(answer)

    def score(self, answers: Sequence[str]) -> Scored:
        """Each answer against what its row expects."""
        pairs = [
            (self.read(said), self.read(wanted)) for said, wanted in zip(answers, self.expected, strict=True)
        ]
        columns = {"exact_match": _column(said.strip() == wanted.strip() for said, wanted in pairs)}
        numbers: tuple[int, ...] = ()
        if self.labels is not None:
            numbers = tuple(self.labels.number(answer) for answer in answers)
            right = (said == wanted for said, wanted in zip(numbers, self.wanted, strict=True))
            columns = {"accuracy": _column(right), **columns}
        elif self.kind == "extraction":
            objects = [(json_object(said), json_object(wanted) or {}) for said, wanted in pairs]
            columns["json_valid"] = _column(said is not None for said, _ in objects)
            columns["field_accuracy"] = _column(fields_right(said, wanted) for said, wanted in objects)
        elif self.kind == "drafting":
            columns["rouge_l"] = _column(rouge_l(said, wanted) for said, wanted in pairs)
        if self.glossary is not None:
            used = [self.glossary.use(said, wanted) for said, wanted in pairs]
            columns["house_terms"] = _column(np.nan if one is None else one for one in used)
        return Scored(columns, numbers)

    def intervals(self, scored: Scored, seed: int) -> dict[str, Interval]:
        """Every column's mean with its interval; macro-F1 besides where there are labels."""
        found = {
            name: mean(column, seed) for name, column in scored.columns.items() if not np.isnan(column).all()
        }
        if scored.said:
            found["macro_f1"] = macro_f1(scored.said, self.wanted, seed)
        return found

    def alike(self, answer: str, other: str) -> float:
        """How far two answers to one question say the same: 0 or 1, for drafts their ROUGE-L."""
        if self.labels is not None:
            number = self.labels.number(answer)
            return float(number == self.labels.number(other) and (number >= 0 or answer == other))
        if self.kind == "extraction":
            one, two = json_object(answer), json_object(other)
            return float(one == two if one is not None or two is not None else answer == other)
        if self.kind == "drafting":
            return rouge_l(self.read(answer), self.read(other))
        return float(self.read(answer).strip() == self.read(other).strip())


def task_of(
    rows: Sequence[Row], name: str, glossary: Glossary | None = None, expected: Sequence[str] | None = None
) -> Task:
    """What these rows ask for. Raises InvalidInput where some have a label and some none, or some are plain text.

    `expected` are the rows' answers as a model writes them, needed where some call functions; else as they stand.
    """
    texts = sum(row.text is not None for row in rows)
    if texts:
        if texts != len(rows):
            raise InvalidInput("Some rows are plain text and some are conversations.", where=name)
        return Task("text", tuple("" for _ in rows))
    expected = tuple(row.answer for row in rows) if expected is None else tuple(expected)
    calling = sum(bool(row.messages[-1].tool_calls) for row in rows)
    found = [row.label for row in rows if row.label is not None]
    if found:
        if len(found) != len(rows):
            raise InvalidInput("Some rows have a label and some have none.", where=name)
        labels = Labels(found)
        numbers = {label: number for number, label in enumerate(labels.names)}
        wanted = tuple(numbers[label.strip()] for label in found)
        return Task("label", expected, labels, glossary, wanted)
    if calling and 2 * calling >= len(rows):
        return Task("answer", expected, glossary=glossary, calls=True)
    if all(json_object(answer) is not None for answer in expected):
        return Task("extraction", expected, glossary=glossary)
    if median(len(words(spoken(answer))) for answer in expected) > DRAFT_WORDS:
        return Task("drafting", expected, glossary=glossary, calls=bool(calling))
    return Task("answer", expected, glossary=glossary, calls=bool(calling))


def with_labels(task: Task, names: Sequence[str]) -> Task:
    """The same, with labels that the hold-out happens not to have."""
    if task.labels is None:
        return task
    labels = Labels([*task.labels.names, *names])
    numbers = {label: number for number, label in enumerate(labels.names)}
    wanted = tuple(numbers[task.labels.names[number]] for number in task.wanted)
    return Task(task.kind, task.expected, labels, task.glossary, wanted)


def instruction_of(task: Task, examples: Sequence[Row]) -> str | None:
    """What a sensible prompter would say first: the labels, or the fields of the object and what they may hold.

    Read off training rows. None where examples alone can tell what is wanted.
    """
    if task.labels is not None:
        names = task.labels.names
        listed = "\n".join(names) if any("," in name for name in names) else ", ".join(names)
        return f"Answer with exactly one of these labels and nothing else:\n{listed}"
    if task.kind != "extraction":
        return None
    objects = [found for row in examples if (found := json_object(row.answer)) is not None]
    names = list(dict.fromkeys(name for found in objects for name in found))
    if not names:
        return None
    told = ", ".join(_field(name, [found[name] for found in objects if name in found]) for name in names)
    return f"Answer with one JSON object and nothing else. Its fields, in this order: {told}."


def _field(name: str, values: Sequence[Any]) -> str:
    choices = sorted({value for value in values if isinstance(value, str)})
    chosen = len(choices) <= MOST_VALUES and len(values) > 4 * len(choices)
    if chosen and choices and all(len(words(value)) <= 4 for value in choices):
        return f"{name} (one of: {', '.join(choices)})"
    return name


def _column(values: Any) -> Floats:
    return np.array([float(value) for value in values], dtype=np.float64)
