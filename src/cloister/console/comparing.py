"""Base against tuned, and one run against another, as tables of words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cloister.console.paint import facts, grid, marked, number, outside, stack, state, styled, titled
from cloister.console.remedies import tried
from cloister.console.widgets.columns import named
from cloister.shown import describe, duration, moment, visible, went_wrong

if TYPE_CHECKING:
    from cloister.api import Job, Run

MEASURES = {"loss": "loss", "exact_match": "exact match", "accuracy": "accuracy", "macro_f1": "macro-F1"}
MAIN = ("method", "epochs", "learning_rate", "batch_size", "max_length", "lora rank", "lora alpha")
OVER = ("done", "failed", "cancelled")
LESS_IS_BETTER = frozenset({"loss"})
HEADING = 16
"""Columns of a run's name, where two stand side by side."""


def evaluation(run: Run) -> Text:
    """Base against tuned on rows that were held out, with a verdict in words."""
    if run.evaluation is None:
        return Text("")
    base, tuned = run.evaluation.get("base", {}), run.evaluation.get("tuned", {})
    rows = [
        (shown, _figure(key, base.get(key)), _figure(key, tuned.get(key)), _verdict(key, base, tuned))
        for key, shown in MEASURES.items()
        if key in tuned
    ]
    count = number(run.evaluation.get("rows"))
    wrong = went_wrong(run)
    return stack(
        marked("warn", "Of a run that went wrong: ") + outside(wrong, 400) if wrong is not None else "",
        titled(f"On {count} held-out rows", grid(rows, ("", "base", "tuned", ""))),
        _worth(run.evaluation),
    )


def _figure(key: str, value: object) -> str:
    """A loss in nats, everything else as a share of the rows."""
    if key in LESS_IS_BETTER or not isinstance(value, int | float):
        return number(value)
    return f"{value:.1%}"


def _worth(evaluation: Mapping[str, Any]) -> Text:
    """The evaluation's own verdict, in its sentences."""
    sentences = ((evaluation.get("full") or {}).get("verdict") or {}).get("sentences") or []
    return Text("\n").join([outside(sentence, 600) for sentence in sentences])


def _verdict(key: str, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Text:
    before, after = base.get(key), tuned.get(key)
    if not isinstance(before, int | float) or not isinstance(after, int | float) or before == after:
        return Text("same" if before == after else "", "dim")
    better = (after < before) == (key in LESS_IS_BETTER)
    return state("better", "good") if better else state("worse", "bad")


def progress(run: Run) -> Text:
    """How both jobs of a run stand."""
    lines = [facts([("training", _job(run.train_job))])]
    if run.evaluate_job is not None:
        lines = [facts([("training", _job(run.train_job)), ("evaluation", _job(run.evaluate_job))])]
    for job in (run.train_job, run.evaluate_job):
        if job is not None and job.error is not None:
            lines.append(styled("× ", "bold red") + outside(job.error.detail))
            if job.error.remedy:
                lines.append(tried(job.error.remedy, "  try: "))
    return stack(*lines)


def _job(job: Job) -> Text:
    told = "" if job.state in OVER else describe(job.model_copy(update={"metrics": {}})).partition(" · ")[2]
    return state(job.state) + Text("  ") + outside(told)


def settings(run: Run) -> Text:
    """What the run was asked to do: what matters most, then what is not as usual."""
    values = _flat(run.train.model_dump())
    unusual = _flat(run.train.model_dump(exclude_defaults=True))
    shown = {name: values[name] for name in MAIN if name in values} | unusual
    return titled("Configuration", facts((name.replace("_", " "), value) for name, value in shown.items()))


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """The adapter's settings beside the others."""
    lora = values.pop("lora", {})
    return values | {f"lora {name}": value for name, value in lora.items()}


def result(run: Run) -> Text:
    told = run.train_job.result
    if not told:
        return Text("")
    start = told.get("holdout_start")
    began = "" if start is None else f", from {number(start)}"
    return facts(
        [
            ("steps", number(told.get("steps"))),
            ("took", duration(told.get("seconds"))),
            ("hold-out loss", f"{number(told.get('holdout_loss'))}{began}"),
            ("tokens/s", number(told.get("tokens_per_s"))),
        ]
    )


def side_by_side(one: Run, other: Run, name_of: Callable[[str], str] = str) -> Text:
    """Two runs: what of dataset, base and settings differs, then what was measured. `name_of` an object, by its id."""
    first, second = _flat(one.train.model_dump()), _flat(other.train.model_dump())
    differ = [
        (shown, *named([visible(name_of(own)) if own else "-" for own in pair], HEADING))
        for shown, *pair in (
            ("dataset", one.dataset, other.dataset),
            ("hold-out", one.holdout, other.holdout),
            ("base", one.base, other.base),
        )
        if pair[0] != pair[1]
    ]
    differ += [(key, str(first[key]), str(second[key])) for key in first if first[key] != second[key]]
    names = named([visible(run.name) for run in (one, other)], HEADING)
    measured = [
        (
            shown,
            _figure(key, _tuned(one, key)),
            _figure(key, _tuned(other, key)),
            _better(key, one, other, names),
        )
        for key, shown in MEASURES.items()
        if _tuned(one, key) is not None or _tuned(other, key) is not None
    ]
    return stack(
        facts(
            [
                ("run", f"{one.name}, started {moment(one.created_at)}"),
                ("beside", f"{other.name}, started {moment(other.created_at)}"),
            ]
        ),
        titled("Settings that differ", grid(differ, ("", *names)) if differ else styled("none", "dim")),
        titled(
            "Measured on held-out rows",
            grid(measured, ("", *names, "")) if measured else styled("not measured", "dim"),
        ),
        marked("warn", "Only runs on the same hold-out compare.")
        if (one.holdout or one.dataset) != (other.holdout or other.dataset)
        else "",
    )


def _tuned(run: Run, key: str) -> Any:
    return (run.evaluation or {}).get("tuned", {}).get(key)


def _better(key: str, one: Run, other: Run, names: Sequence[str]) -> Text:
    first, second = _tuned(one, key), _tuned(other, key)
    if not isinstance(first, int | float) or not isinstance(second, int | float) or first == second:
        return Text("")
    return outside(f"{names[(first < second) != (key in LESS_IS_BETTER)]} is better", 40)
