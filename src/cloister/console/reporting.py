"""A dataset's report as text: figures, lengths as bars, balance, repeats, leakage, personal data by type.

Numbers only; rows are named by their number and labels by their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import bar, facts, grid, number, outside, stack, state, styled, titled

if TYPE_CHECKING:
    from cloister.api import DatasetReport, LengthFigures, PersonalFigures

WIDTH = 30
LABELS = 20
STEPS = 20
"""Bars of one histogram; with more steps, neighbours share one."""


def told(found: DatasetReport) -> Text:
    """The whole report."""
    return stack(
        facts(
            [
                (
                    "rows",
                    f"{found.rows:,}: {found.train_rows:,} to train on, {found.holdout_rows:,} held out",
                ),
                ("task", found.task),
                ("turns", ", ".join(f"{turns} in {rows:,}" for turns, rows in found.turns.items())),
                ("supervised tokens", number(found.supervised_tokens) if found.tokens is not None else None),
            ]
        ),
        _lengths("characters", found.characters),
        _lengths("tokens", found.tokens),
        _balance(found),
        titled("To look at", _findings(found)),
        _personal(found.personal, found.rows) if found.personal is not None else Text(""),
    )


def _lengths(what: str, figures: LengthFigures | None) -> Text:
    if figures is None:
        return Text("")
    spread = (
        f"{figures.total:,} in all; a row has {figures.shortest:,} to {figures.longest:,}, half of them at most "
        f"{figures.median:,}, 95% {figures.p95:,}, 99% {figures.p99:,}\n"
    )
    joined = 1 + (len(figures.histogram) - 1) // STEPS
    steps = [figures.histogram[at : at + joined] for at in range(0, len(figures.histogram), joined)]
    bars = [(step[-1][0], sum(rows for _, rows in step)) for step in steps]
    most = max((rows for _, rows in bars), default=0) or 1
    drawn = grid([(f"to {upper:,}", bar(rows / most, WIDTH), f"{rows:,}") for upper, rows in bars])
    return titled(f"Length in {what}", styled(spread, "dim") + drawn)


def _balance(found: DatasetReport) -> Text:
    labels = found.labels
    if labels is None or not labels.rows:
        return Text("")
    rows = [
        (f"label {place}", bar(count / labels.rows[0], WIDTH), f"{count:,}")
        for place, count in enumerate(labels.rows[:LABELS], 1)
    ]
    more = labels.distinct - len(rows)
    rest = styled(f"and {more:,} more, the last with {labels.rows[-1]:,}\n", "dim") if more > 0 else Text("")
    return titled(f"Balance of {labels.distinct:,} labels", grid(rows) + rest)


def _findings(found: DatasetReport) -> Text:
    """What may be wrong, each with how many rows; nought is good."""
    counts: list[tuple[str, int, list[int]]] = []
    notes = []
    if found.repeats is not None:
        repeats = found.repeats
        counts += [
            ("equal to an earlier row", repeats.duplicates, []),
            (
                f"one input, several answers ({repeats.conflicting_inputs:,} inputs)",
                repeats.conflicting_rows,
                [],
            ),
            ("held out, and trained on", repeats.leaked, []),
            ("empty answers", found.empty_answers, found.first_empty),
        ]
        if repeats.one_in > 1:
            notes.append(f"Equal rows are estimates: one content in {repeats.one_in} was followed.")
    if found.near is not None:
        near = found.near
        counts += [
            ("nearly an earlier row", near.similar, near.first),
            ("held out, and nearly trained on", near.leaked, []),
        ]
        if near.compared < found.rows:
            notes.append(f"Near ones were looked for among {near.compared:,} rows; there are more.")
    counts += [
        (f"refused: {rule}", count, found.first_lost.get(rule, [])) for rule, count in found.lost.items()
    ]
    rows = [
        (
            what,
            state(f"{count:,}", "warn") if count else state("0", "good"),
            f"row {', '.join(map(str, named))}{' …' if len(named) >= 10 else ''}" if named else "",
        )
        for what, count, named in counts
    ]
    return stack(grid(rows), *(styled(note, "dim") for note in notes))


def _personal(found: PersonalFigures, rows: int) -> Text:
    looked = f"{found.rows:,} of {found.looked_at:,} rows" + (
        f", a sample of {rows:,}" if found.looked_at < rows else ""
    )
    types = [
        (
            kind.replace("_", " "),
            f"{sum(fields.values()):,}",
            ", ".join(f"{field} {count:,}" for field, count in fields.items()),
        )
        for kind, fields in found.found.items()
    ]
    body = grid(types, ("type", "found", "where")) if types else state("none found", "good")
    return titled(f"Personal data in {looked}", stack(body, outside("Detection, no guarantee.", style="dim")))
