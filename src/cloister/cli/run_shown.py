"""A run as `run show` prints it: what it was made of, its settings, its jobs, and base against tuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cloister.cli import output
from cloister.cli.output import describe, duration, print_table, say, tell, visible
from cloister.errors import CloisterError

if TYPE_CHECKING:
    from cloister.api import Run, StoredObject
    from cloister.client import Client


def print_run(client: Client, run: Run) -> None:
    """All of it. Datasets and base by name, as far as this account may see them."""
    settings = run.train.model_dump()
    holdout = [] if run.holdout is None else [("hold-out", named(client.dataset, run.holdout))]
    print_table(
        ("", ""),
        [
            ("run", f"{run.name} ({run.run_id})"),
            ("dataset", named(client.dataset, run.dataset)),
            *holdout,
            ("base", named(client.base, run.base)),
            ("adapter", run.adapter or "-"),
            ("training", describe(run.train_job)),
            ("device", (run.train_job.device or "-").replace(",", ", ")),
            ("evaluation", describe(run.evaluate_job) if run.evaluate_job else "-"),
            *((key, _setting(value)) for key, value in settings.items() if key != "lora"),
            *((f"lora {key}", _setting(value)) for key, value in settings["lora"].items()),
        ],
        empty="",
    )
    for job in (run.train_job, run.evaluate_job):
        if job is not None and job.error is not None:
            say(f"! {visible(job.error.detail)} {visible(job.error.remedy or '')}")
    print_outcome(run)


def print_outcome(run: Run) -> None:
    """What came of it, and the whole table's verdict where that was measured."""
    result = run.train_job.result
    if result:
        start = result.get("holdout_start")
        began = "" if start is None else f" (before the first step {number(start)})"
        say(
            f"Trained {result.get('steps', '?')} steps in {duration(result.get('seconds'))}: hold-out loss "
            f"{number(result.get('holdout_loss'))}{began}, {number(result.get('tokens_per_s'))} tokens/s."
        )
    if run.evaluation is None:
        return
    base, tuned = run.evaluation.get("base", {}), run.evaluation.get("tuned", {})
    names = {"loss": "loss", "exact_match": "exact match", "accuracy": "accuracy", "macro_f1": "macro-F1"}
    print_table(
        (f"on {run.evaluation.get('rows', '?')} held-out rows", "base", "tuned"),
        [
            (shown, number(base.get(key)), number(tuned.get(key)))
            for key, shown in names.items()
            if key in tuned
        ],
        empty="Not measured.",
    )

    before, after = base.get("loss"), tuned.get("loss")
    if isinstance(before, int | float) and isinstance(after, int | float) and after >= before:
        say(
            "! Tuned, its loss on these rows is no lower than the base's: this run was worth nothing, or did harm."
        )
    full = run.evaluation.get("full")
    if full is not None:
        for sentence in full["verdict"]["sentences"]:
            tell(sentence)
        say(f"The whole table: `cloister evaluate show {visible(run.name)}`.")


def number(value: object) -> str:
    """A figure in four digits; a dash where there is none."""
    return output.figure(value) if isinstance(value, int | float) else "-"


def named(find: Callable[[str], StoredObject | Run], reference: str) -> str:
    """An object's name beside its id; the id alone where it is gone, or not for this account to see."""
    try:
        return f"{find(reference).name} ({reference})"
    except CloisterError:
        return reference


def _setting(value: object) -> str:
    """As a run file says it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
