"""The table as words in columns, for a terminal and for a page: numbers and fixed words, names only where given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloister.evaluation.statistics import Interval
from cloister.evaluation.table import LOWER_IS_BETTER, TUNED, Line, Table, counted

Columns = tuple[list[str], list[list[str]]]
"""A heading and the rows under it."""

_NAMES = {
    "base": "base, asked well",
    "few-shot": "base, few-shot",
    "retrieval": "base, retrieval",
    "tuned": "tuned",
    "larger": "larger base, asked well",
    "larger few-shot": "larger base, few-shot",
}
_ORDER = (
    "accuracy",
    "macro_f1",
    "field_accuracy",
    "json_valid",
    "rouge_l",
    "house_terms",
    "exact_match",
    "loss",
)


def figures(table: Table) -> Columns:
    """Every figure with its interval, the deciding one first, and beside it by how much the tuned model is better."""
    found = list(dict.fromkeys(name for line in table.lines for name in line.figures))
    found.sort(
        key=lambda name: (name != table.primary, _ORDER.index(name) if name in _ORDER else len(_ORDER))
    )
    gained = 1 + found.count(table.primary)
    heading = ["asked how", *map(title, found)]
    heading.insert(gained, "tuned is better by")
    rows = []
    for line in table.lines:
        row = [called(line), *(interval(name, line.figures.get(name)) for name in found)]
        row.insert(gained, gain(table.primary, line.gain))
        rows.append(row)
    if any(line.consistency is not None for line in table.lines):
        heading.append("alike again")
        for line, row in zip(table.lines, rows, strict=True):
            row.append(interval("share", line.consistency))
    return heading, rows


def effort(table: Table) -> Columns:
    """What a query takes and costs."""
    money = table.currency
    counted = any(line.cut is not None for line in table.lines)
    heading = ["asked how", "instruction", "examples", "prompt tokens"]
    if counted:
        heading += ["answer tokens", "cut off"]
    heading += ["latency", "in batches"]
    if money is not None:
        heading += [f"1,000 queries ({money})", "tuning pays after"]
    rows = []
    for line in table.lines:
        cells = [
            "yes" if line.instructed else "no",
            f"{line.examples:.1f}".removesuffix(".0"),
            f"{line.prompt_tokens:.0f}",
        ]
        if counted:
            cells.append("-" if line.longest is None else f"at most {line.longest}")
            cells.append("-" if line.cut is None else f"{line.cut:.0%}")
        cells += [_seconds(line.latency_s), _seconds(line.seconds)]
        if money is not None:
            unknown = line.cost is None or table.training_cost is None
            cells.append("-" if line.cost is None else f"{line.cost:.4g}")
            cells.append("" if line.name == TUNED else "-" if unknown else _queries(line.pays_after))
        rows.append([called(line), *cells])
    if money is not None and table.pays_after_person is not None:
        rows.append(["a person", *[""] * (len(heading) - 2), _queries(table.pays_after_person)])
    return heading, rows


def groups(table: Table, names: Sequence[Mapping[str, Any]] = ()) -> list[Columns]:
    """The deciding figure by group, a table a column of groups. Without `names` they are numbers."""
    found = []
    for at, column in enumerate(table.groups):
        named = names[at] if at < len(names) else None
        heading = [str(named["column"]) if named else f"group of column {at + 1}", "rows"]
        heading += [called(line) for line in table.lines]
        rows = []
        for number, one in enumerate(column):
            name = str(named["groups"][number]) if named else str(number + 1)
            told = [one.figures.get(line.name) for line in table.lines]
            values = ["-" if figure is None else number_of(table.primary, figure) for figure in told]
            rows.append([name, str(one.rows), *values])
        found.append((heading, rows))
    return found


def labels(table: Table, found: Sequence[Mapping[str, Any]]) -> Columns:
    """The share of each label that each line got right."""
    heading = ["label", "rows", *(called(line) for line in table.lines)]
    rows = [
        [
            str(one["label"]),
            str(one["rows"]),
            *(f"{one['right'].get(line.name, 0):.0%}" for line in table.lines),
        ]
        for one in found
    ]
    return heading, rows


def general(table: Table) -> Columns:
    """The general check by kind; no rows where it was not made."""
    heading = ["general check", "base", "tuned"]
    if table.general is None:
        return heading, []
    rows = [[kind, f"{base:.0%}", f"{tuned:.0%}"] for kind, (base, tuned) in table.general.kinds.items()]
    one = table.general
    rows.append(["all", interval("share", one.base), interval("share", one.tuned)])
    return heading, rows


def lines(found: Columns) -> list[str]:
    """The columns as lines of plain text, the first on the left, the others on the right."""
    heading, rows = found
    widths = [max(len(row[at]) for row in (heading, *rows)) for at in range(len(heading))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(widths[at + 1]) for at, cell in enumerate(row[1:]))]
        ).rstrip()
        for row in (heading, *rows)
    ]


def title(name: str) -> str:
    """A figure's name in words."""
    return {"macro_f1": "macro-F1", "rouge_l": "ROUGE-L", "json_valid": "JSON valid"}.get(
        name, name.replace("_", " ")
    )


def called(line: Line) -> str:
    return _NAMES.get(line.name, line.name)


def interval(name: str, found: Interval | None) -> str:
    """A figure and where it lies."""
    if found is None:
        return "-"
    low, high = number_of(name, found.low), number_of(name, found.high)
    return f"{number_of(name, found.value)} [{low}, {high}]"


def gain(name: str, found: Interval | None) -> str:
    """A difference of two figures and where it lies: of shares, in points."""
    if found is None or name in LOWER_IS_BETTER or name.startswith("own"):
        return interval(name, found)
    value, low, high = (f"{one * 100:.1f}" for one in (found.value, found.low, found.high))
    return f"{value} points [{low}, {high}]"


def number_of(name: str, value: float) -> str:
    """Shares as percentages, losses and numbers of one's own metric as they are."""
    if name in LOWER_IS_BETTER or name.startswith("own"):
        return f"{value:.4g}"
    return f"{value * 100:.1f}%"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _queries(value: float | None) -> str:
    return "never" if value is None else counted(value)
