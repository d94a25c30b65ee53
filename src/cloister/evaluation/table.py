"""The table: one line a way of asking, all on the same rows, with intervals, times, costs and break-evens.

Built from what was measured; it measures nothing and knows no model. Numbers and fixed words only, no content.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec
import numpy as np

from cloister.api import Costs
from cloister.evaluation.general import General
from cloister.evaluation.statistics import (
    Floats,
    Interval,
    difference,
    macro_f1,
    mean,
    ratio,
    ratio_difference,
)
from cloister.evaluation.tasks import Scored, Task

TUNED, BASE, FEW_SHOT, RETRIEVAL = "tuned", "base", "few-shot", "retrieval"
LARGER, LARGER_FEW_SHOT = "larger", "larger few-shot"
LOWER_IS_BETTER = frozenset({"loss", "perplexity"})


@dataclass(frozen=True)
class Measured:
    """One way of asking, measured on all rows. `seconds` is a query's time when asked in batches, `latencies` those of
    queries asked alone; `nats` and `counts` are a row's loss, for plain text. Of the answers, none of which may have
    more than `longest` tokens, the share `cut` did not end by itself."""

    name: str
    answers: tuple[str, ...] = field(default=(), repr=False)
    scored: Scored = field(default_factory=lambda: Scored({}), repr=False)
    alike: tuple[float, ...] = ()
    examples: float = 0.0
    instructed: bool = False
    prompt_tokens: float = 0.0
    seconds: float = 0.0
    latencies: tuple[float, ...] = ()
    nats: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    longest: int | None = None
    cut: float | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `gain` is how much better the tuned model is on the deciding figure, row by row; `pays_after` how many
    queries pay its training back against this line, None where it never does or no price is known. `cut` is the share
    of answers that were cut off at `longest` tokens; None of both where nobody counted."""

    name: str
    figures: dict[str, Interval]
    gain: Interval | None
    consistency: Interval | None
    examples: float
    instructed: bool
    prompt_tokens: float
    latency_s: float | None
    seconds: float
    cost: float | None
    pays_after: float | None
    longest: int | None = None
    cut: float | None = None


class GroupLine(msgspec.Struct, frozen=True, kw_only=True):
    """One group's rows, and the deciding figure of each line on them; a line that has none there is left out."""

    rows: int
    figures: dict[str, float]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All lines. `primary` is the deciding figure. `groups` has, for each column of groups, one line a group: both
    are numbers here; their names are content. Money is in `currency`, and comes of times that were taken with
    `timed_with`."""

    rows: int
    kind: str
    primary: str
    lines: list[Line]
    groups: list[list[GroupLine]]
    general: General | None
    currency: str | None
    training_cost: float | None
    pays_after_person: float | None
    timed_with: str = "plain transformers"

    def line(self, name: str) -> Line | None:
        return next((line for line in self.lines if line.name == name), None)


def counted(queries: float) -> str:
    """After how many queries, in three digits that count and rounded up: no time is known better than that."""
    step = 10 ** max(0, len(str(math.ceil(queries))) - 3)
    return f"{math.ceil(queries / step) * step:,}"


def build(
    task: Task,
    measured: Sequence[Measured],
    *,
    primary: str,
    groups: Sequence[Sequence[Sequence[int]]],
    general: General | None,
    costs: Costs | None,
    training_s: float | None,
    seed: int,
) -> Table:
    """The table of `measured`, one of which is the tuned model.

    Args:
        groups: for each column of groups, for each of its groups, the rows' positions.
        training_s: how long the run's training took, added up over its devices.
    """
    tuned = next(one for one in measured if one.name == TUNED)
    hour = costs.hour if costs is not None else None
    training = training_s / 3600 * hour if training_s is not None and hour is not None else None
    if training is not None and costs is not None and costs.preparation is not None:
        training += costs.preparation

    def cost(one: Measured) -> float | None:
        return None if hour is None else one.seconds / 3600 * hour * 1000

    def pays_after(saved: float | None) -> float | None:
        if saved is None or training is None or saved <= 0:
            return None
        return float(math.ceil(training / saved))

    ours = cost(tuned)
    lines = []
    for one in measured:
        theirs = cost(one)
        other = one is not tuned
        saved = (theirs - ours) / 1000 if theirs is not None and ours is not None and other else None
        lines.append(
            Line(
                name=one.name,
                figures=_figures(task, one, seed),
                gain=gain(tuned, one, primary, seed, task) if other else None,
                consistency=mean(np.array(one.alike), seed) if one.alike else None,
                examples=one.examples,
                instructed=one.instructed,
                prompt_tokens=one.prompt_tokens,
                latency_s=median(one.latencies) if one.latencies else None,
                seconds=one.seconds,
                cost=theirs,
                pays_after=pays_after(saved),
                longest=one.longest,
                cut=one.cut,
            )
        )
    person = costs.case if costs is not None else None
    return Table(
        rows=len(task.expected),
        kind=task.kind,
        primary=primary,
        lines=lines,
        groups=[[_group(measured, primary, rows) for rows in column] for column in groups],
        general=general,
        currency=costs.currency if costs is not None and (hour is not None or person is not None) else None,
        training_cost=training,
        pays_after_person=pays_after(
            person - ours / 1000 if person is not None and ours is not None else None
        ),
    )


def gain(tuned: Measured, other: Measured, primary: str, seed: int, task: Task) -> Interval | None:
    """How much better the tuned model is, paired by row; positive is better, also where less is better."""
    if primary == "loss":
        theirs, ours = np.array(other.nats), np.array(tuned.nats)
        return ratio_difference(theirs, ours, np.array(tuned.counts, np.float64), seed)
    mine, other_one = tuned.scored.columns.get(primary), other.scored.columns.get(primary)
    if mine is None or other_one is None or np.isnan(mine - other_one).all():
        return None
    return difference(mine, other_one, seed)


def bounds(table: Table) -> dict[str, Any]:
    """The numbers that a promotion's policy may refer to: of the tuned model the figures and the lower ends of their
    intervals, how sure its gain is, over what needs no tuning and over a larger model, and what was lost."""
    tuned = table.line(TUNED)
    assert tuned is not None
    found: dict[str, Any] = {"rows": table.rows}
    for name, interval in tuned.figures.items():
        if name in LOWER_IS_BETTER:
            found[f"{name}_high"] = interval.high
        elif not name.startswith("own"):
            found[f"{name}_low"] = interval.low
    own = next((interval for name, interval in tuned.figures.items() if name.startswith("own")), None)
    if own is not None:
        found["own_low"] = own.low
    for name, larger in (("gain_low", False), ("larger_gain_low", True)):
        those = [line for line in table.lines if line.name.startswith(LARGER) == larger]
        gains = [line.gain.low for line in those if line.gain is not None]
        if gains:
            found[name] = min(gains)
    if tuned.consistency is not None:
        found["consistency"] = tuned.consistency.value
    if table.general is not None:
        found["general_change_low"] = table.general.change.low
        found["general_low"] = table.general.tuned.low
    return found


def _figures(task: Task, one: Measured, seed: int) -> dict[str, Interval]:
    if one.counts:
        loss = ratio(np.array(one.nats), np.array(one.counts, np.float64), seed)
        return {"loss": loss, "perplexity": Interval(*(_exp(n) for n in (loss.value, loss.low, loss.high)))}
    found = {
        name: mean(column, seed) for name, column in one.scored.columns.items() if not np.isnan(column).all()
    }
    if one.scored.said:
        found["macro_f1"] = macro_f1(one.scored.said, task.wanted, seed)
    return found


def _group(measured: Sequence[Measured], primary: str, rows: Sequence[int]) -> GroupLine:
    picked = list(rows)
    told = {one.name: _at(one, primary, picked) for one in measured}
    return GroupLine(rows=len(picked), figures={name: at for name, at in told.items() if at is not None})


def _at(one: Measured, primary: str, rows: list[int]) -> float | None:
    """The mean of a line's figure over some rows; None where none of them has one."""
    if one.counts:
        return float(np.array(one.nats)[rows].sum() / np.array(one.counts)[rows].sum())
    found = one.scored.columns.get(primary)
    if found is None:
        return None
    column: Floats = found[rows]
    return float(np.nanmean(column)) if not np.isnan(column).all() else None


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def plain(table: Table) -> dict[str, Any]:
    """As plain numbers and words, for JSON."""
    found: dict[str, Any] = msgspec.to_builtins(table)
    return found


def of(numbers: Mapping[str, Any]) -> Table:
    """The inverse of `plain`."""
    return msgspec.convert(numbers, Table)
