"""`cloister dataset curve`: how much data is enough, told by a family of ordinary runs on parts of the training side.

It starts runs and gathers what came of them; the arithmetic is `cloister.evaluation.learning`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloister.cli.output import JsonFlag, print_json, print_table, say, tell, visible
from cloister.cli.session import connect
from cloister.errors import ApprovalNeeded, Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from cloister.api import Run, RunRequest, StoredObject
    from cloister.client import Client

Metric = Literal["loss", "exact_match", "accuracy", "macro_f1"]
SMALLEST = 50
MOST_SIZES = 16
_MEMBER = re.compile(r"-(\d+)-s(\d+)$")


def curve(
    reference: Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name or id.")],
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="The base model. Needed unless with --show.")
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Rows to learn, such as 50,100,200. Default: 50, doubled, up to all of them."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=10, help="Runs of each size, each with rows and an order of its own.")
    ] = 3,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="The runs are NAME-50-s0, …; default: DATASET-curve.")
    ] = None,
    holdout: Annotated[
        str | None, typer.Option(help="Measure on this dataset instead of the hold-out.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="Settings that ship: `cloister run presets`.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file of training settings.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows, of every size alike.")] = None,
    metric: Annotated[
        Metric | None, typer.Option(help="Told beside the loss; default: what the runs were measured by.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Start nothing: gather what the runs have come to.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """How much data do I need? Queue runs on parts of the training rows, and show what more rows brought.

    The parts are drawn by the seed, the smaller within the larger; all are measured on the same hold-out. They are
    ordinary runs, each decided, approved and entered like one. Given again, it starts those that are not there yet
    (once they are approved, say). `--show` prints rows, hold-out loss and metric with intervals over the seeds, and
    what twice the rows would bring.
    """
    with connect() as client:
        dataset = client.dataset(reference)
        family = name or f"{dataset.name}-curve"
        if not show:
            if base is None:
                raise InvalidInput("on which base model?", where="--base", remedy="Or give --show.")
            wanted = _requests(
                dataset,
                family,
                _sizes(sizes, dataset.counts.get("train_rows", 0)),
                range(seeds),
                base=client.base(base).object_id,
                holdout=None if holdout is None else client.dataset(holdout).object_id,
                sources=(config, preset),
                epochs=epochs,
                measure=metric != "loss",
            )
            if holdout is None and not dataset.counts.get("holdout_rows", 0):
                raise InvalidInput(
                    "there is no hold-out to measure on",
                    where=dataset.name,
                    remedy="Import it with one, or name a dataset with --holdout.",
                )
            _start(client, wanted, dataset.name, family, json=json)
            return
        runs = _members(client, dataset, family, None if base is None else client.base(base).object_id)
    held_out = dataset.counts.get("holdout_rows") if runs[0].holdout is None else None
    found = gathered(runs, metric, held_out)
    print_json({"dataset": dataset.object_id, "name": family, **found}) if json else _print(found)


def _sizes(given: str | None, rows: int) -> list[int]:
    """The sizes asked for, or 50, 100, 200, … and all. Errors: InvalidInput."""
    if given is None:
        doubled = [SMALLEST << power for power in range(MOST_SIZES - 1)]
        found = [size for size in doubled if size < rows] + ([rows] if rows else [])
    else:
        parts = [part.strip() for part in given.split(",")]
        if not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
            raise InvalidInput("sizes are given as 50,100,200", where="--sizes")
        found = sorted({int(part) for part in parts})
    if not found or found[0] < 1 or len(found) > MOST_SIZES:
        raise InvalidInput(f"a curve has 1 to {MOST_SIZES} sizes, of at least one row", where="--sizes")
    if found[-1] > rows:
        raise InvalidInput(f"the training side has {rows} rows", where="--sizes", remedy="Ask for no more.")
    return found


def _requests(
    dataset: StoredObject,
    family: str,
    sizes: Sequence[int],
    seeds: Iterable[int],
    *,
    base: str,
    holdout: str | None,
    sources: tuple[Path | None, str | None],
    epochs: float | None,
    measure: bool,
) -> list[RunRequest]:
    """One run a size and seed, the largest first: what does not fit fails at once."""
    from cloister.cli.run_files import run_request

    return [
        run_request(
            (None, *sources),
            train={"epochs": epochs, "seed": seed, "max_rows": size},
            lora={},
            named={
                "name": f"{family}-{size}-s{seed}",
                "dataset": dataset.object_id,
                "base": base,
                "holdout": holdout,
            },
            evaluate="pair" if measure else "none",
            max_new_tokens=None,
        )
        for seed in seeds
        for size in reversed(sizes)
    ]


def _start(client: Client, wanted: Sequence[RunRequest], dataset: str, family: str, *, json: bool) -> None:
    """Start what is not there yet. Errors: Conflict where a run of such a name is another one."""
    there = {run.name: run for run in client.runs()}
    for request in wanted:
        run = there.get(request.name)
        if run is not None and (run.dataset, run.base, run.holdout, run.train) != (
            request.dataset,
            request.base,
            request.holdout,
            request.train,
        ):
            raise Conflict(
                "a run of that name is of other data or settings",
                where=request.name,
                remedy="Choose another --name.",
            )
    started, approvals = [], {}
    for request in wanted:
        if request.name in there:
            continue
        try:
            started.append(client.start_run(request).name)
        except ApprovalNeeded as error:
            if "approval" not in error.values:
                raise
            approvals[request.name] = str(error.values["approval"])
    if json:
        print_json({"name": family, "started": started, "approvals": approvals})
        return
    say(f"{len(started)} of {len(wanted)} runs are queued: {visible(family)}-….")
    for run_name, approval in approvals.items():
        say(f"{visible(run_name)} waits for somebody's approval: `cloister approval show {approval}`.")
    if approvals:
        say("Once they are given, give this command again.")
    say(f"When they are done: `cloister dataset curve {visible(dataset)} --name {visible(family)} --show`.")


def _members(client: Client, dataset: StoredObject, family: str, base: str | None) -> list[Run]:
    """The family's runs. Errors: NotFound; Conflict where they are of several bases or settings."""
    found = [
        run
        for run in client.runs()
        if run.dataset == dataset.object_id
        and base in (None, run.base)
        and (match := _MEMBER.search(run.name)) is not None
        and run.name[: match.start()] == family
        and (run.train.max_rows, run.train.seed) == (int(match[1]), int(match[2]))
    ]
    if not found:
        raise NotFound(
            "there is no run of that curve", where=family, remedy="Start them: `cloister dataset curve`."
        )
    alike = {
        (run.base, run.holdout, run.train.model_copy(update={"max_rows": 0, "seed": 0}).model_dump_json())
        for run in found
    }
    if len(alike) > 1:
        raise Conflict(
            "these runs differ in more than rows and seed, and make no curve",
            where=family,
            remedy="Give --base, or start another family with --name.",
        )
    return found


def gathered(runs: Sequence[Run], metric: str | None, held_out: int | None = None) -> dict[str, Any]:
    """What the runs that are done have come to: by size, fitted, and in words. `held_out` rows measured the losses."""
    import msgspec

    from cloister.evaluation.learning import fit, over_seeds, sentences

    measured = [run for run in runs if _figure(run, "loss") is not None]
    names = ("accuracy", "exact_match", "macro_f1")
    chosen = metric or next(
        (n for n in names if any(_figure(run, n) is not None for run in measured)), "loss"
    )
    by_size: dict[int, list[Run]] = {}
    for run in runs:
        by_size.setdefault(run.train.max_rows, []).append(run)
    lines = []
    for size, members in sorted(by_size.items()):
        line: dict[str, Any] = {"rows": size, "asked": len(members)}
        for what in dict.fromkeys(("loss", chosen)):
            values = [value for run in members if (value := _figure(run, what)) is not None]
            line["runs"] = len(values)
            line[what] = _plain(msgspec.to_builtins(over_seeds(values))) if values else None
        lines.append(line)
    share = chosen != "loss"
    lower = {
        size: [
            1 - value if share else value for run in members if (value := _figure(run, chosen)) is not None
        ]
        for size, members in by_size.items()
    }
    lower = {size: values for size, values in lower.items() if values}
    found = fit(lower)
    holdout_rows = next((run.evaluation["rows"] for run in measured if run.evaluation), held_out)
    what = f"error ({chosen.replace('_', ' ')})" if share else "loss"
    return {
        "metric": chosen,
        "holdout_rows": holdout_rows,
        "sizes": lines,
        "curve": None if found is None else msgspec.to_builtins(found),
        "sentences": sentences(lower, found, what=what, holdout_rows=holdout_rows, share=chosen in _SHARES),
    }


_SHARES = ("accuracy", "exact_match")
"""Of the held-out rows; macro-F1 is none."""


def _figure(run: Run, name: str) -> float | None:
    """Of a run that is done: the hold-out loss of its best step, or a score of its evaluation."""
    if (
        run.train_job.state == "failed"
    ):  # what is kept of it is from before it went wrong: of fewer steps than it was to take
        return None
    told = run.train_job.result.get("holdout_loss")
    if name != "loss":
        told = ((run.evaluation or {}).get("tuned") or {}).get(name)
    good = isinstance(told, int | float) and not isinstance(told, bool) and math.isfinite(told)
    return float(told) if good and told is not None else None


def _plain(interval: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in interval.items()}


def _print(found: dict[str, Any]) -> None:
    whats = list(dict.fromkeys(("loss", found["metric"])))
    print_table(
        ("rows", "runs", *(f"hold-out {what.replace('_', ' ')}" for what in whats)),
        [
            (line["rows"], f"{line['runs']} of {line['asked']}", *(_shown(line[what]) for what in whats))
            for line in found["sizes"]
        ],
        empty="",
    )
    to_come = sum(line["asked"] - line["runs"] for line in found["sizes"])
    if to_come:
        print(
            f"Of {sum(line['asked'] for line in found['sizes'])} runs {to_come} have no result: `cloister run list`."
        )
    for sentence in found["sentences"]:
        tell(sentence)


def _shown(interval: dict[str, float | None] | None) -> str:
    if interval is None:
        return "-"
    low, high = interval["low"], interval["high"]
    between = f" ({low:.3g} to {high:.3g})" if low is not None and high is not None else ""
    return f"{interval['value']:.4g}{between}"
