"""Curves of runs: drawn in the terminal, side by side, as a picture, and for TensorBoard and MLflow. Numbers only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.cli.output import (
    JsonFlag,
    describe,
    duration,
    figure,
    flattened,
    print_json,
    print_table,
    say,
    size,
    standing,
    visible,
    warn_of,
)
from cloister.cli.run_shown import named
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import Curve, Run
    from cloister.client import Client

SHOWN = ("loss", "holdout_loss")
HEIGHT = 18
PICTURES = (".svg", ".png", ".pdf")
WHOLE = 100_000

Reference = Annotated[str, typer.Argument(metavar="RUN", help="The run's name or id, or its job's id.")]


def curve(
    reference: Reference,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="What to draw; several. Default: the losses.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a picture (.svg, .png, .pdf) or the numbers (.csv)."),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write an event file into this folder, for TensorBoard.")
    ] = None,
    mlflow: Annotated[
        Path | None, typer.Option(help="Write a run into this `mlruns` folder, for MLflow.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Draw how a run went, step by step; or write it out: numbers only, no content."""
    from cloister.errors import NotFound

    with connect() as client:
        found = client.run_curve(reference, most=WHOLE if out or tensorboard or mlflow or json else 2000)
        run = client.run(found.run_id)
    if json:
        print_json(found)
        return
    if not found.points:
        raise NotFound(
            "nothing was measured yet", where=found.name, remedy="A run says something every few steps."
        )
    names = _names([found], metric, SHOWN)
    if tensorboard is not None:
        from cloister.cli.trackers import write_tensorboard

        say(f"{visible(str(write_tensorboard(tensorboard, found)))} is written.")
    if mlflow is not None:
        from cloister.cli.trackers import write_mlflow

        say(
            f"{visible(str(write_mlflow(mlflow, run, found)))} is written. MLflow 3 reads such a folder with "
            "MLFLOW_ALLOW_FILE_STORE=true, or takes it into its database: `mlflow migrate-filestore`."
        )
    if out is not None:
        _write_out(out, [found], names, force=force)
        say(f"{visible(str(out))} is written.")
    if out is None and tensorboard is None and mlflow is None:
        _draw([found], names)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run's name or id.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another one's.")],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="What to draw; several. Default: the hold-out loss."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the curves too: .svg, .png, .pdf, .csv.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Two runs side by side: what was set differently, what came of it, and their curves."""
    with connect() as client:
        runs = [client.run(first), client.run(second)]
        curves = [client.run_curve(run.run_id, most=WHOLE if out or json else 2000) for run in runs]
        told = [_outside(client, run) for run in runs]
    settings, results = _settings(*runs), _results(*runs)
    if json:
        print_json(
            {
                "runs": [run.run_id for run in runs],
                "settings": {name: pair for name, *pair in settings},
                "results": {name: pair for name, *pair in results},
                "curves": curves,
            }
        )
        return
    heads = ("", *(run.name for run in runs))
    print_table(
        heads,
        [
            (name, *(each.get(name, _shown(value)) for each, value in zip(told, pair, strict=True)))
            for name, *pair in settings
            if pair[0] != pair[1]
        ],
        empty="Both were set alike.",
    )
    print()
    print_table(
        heads,
        [(_TITLES.get(name, name), _shown(a, name), _shown(b, name)) for name, a, b in results],
        empty="Neither has a result.",
    )
    for run in runs:
        warn_of(run)
    if runs[0].dataset != runs[1].dataset or runs[0].holdout != runs[1].holdout:
        say("! They were measured on different rows: their figures cannot be compared.")
    drawn = [found for found in curves if found.points]
    if not drawn:
        return
    held_out = any("holdout_loss" in _all_names(one) for one in drawn)
    names = _names(drawn, metric, ("holdout_loss" if held_out else "loss",))
    if out is not None:
        _write_out(out, drawn, names, force=force)
        say(f"{visible(str(out))} is written.")
    else:
        print()
        _draw(drawn, names, of_which=True)


def _settings(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    """Every setting of both, `lora` and `evaluate` flattened."""
    left, right = _flat(a), _flat(b)
    return [(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]


def _flat(run: Run) -> dict[str, Any]:
    measured = run.evaluate.model_dump() if run.evaluate else {}
    return {
        "dataset": run.dataset,
        "base": run.base,
        "holdout": run.holdout,
        "from run": run.from_run,
        **flattened(run.train.model_dump()),
        **flattened({"evaluate": measured}),
    }


def _outside(client: Client, run: Run) -> dict[str, str]:
    """What a run was made of, by name."""
    found = {"dataset": named(client.dataset, run.dataset), "base": named(client.base, run.base)}
    if run.holdout is not None:
        found["holdout"] = named(client.dataset, run.holdout)
    if run.from_run is not None:
        found["from run"] = named(client.run, run.from_run)
    return found


def _results(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    left, right = _outcome(a), _outcome(b)
    return [(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]


def _outcome(run: Run) -> dict[str, Any]:
    result = run.train_job.result
    job = standing(run)
    found: dict[str, Any] = {"state": describe(job.model_copy(update={"metrics": {}}))}  # they stand below
    found |= {name.replace("_", " "): result[name] for name in _TOLD if name in result}
    for side in ("base", "tuned"):
        scores = (run.evaluation or {}).get(side) or {}
        found |= {
            f"{side} {name.replace('_', ' ')}": value for name, value in scores.items() if _is_number(value)
        }
    return found


_TOLD = (
    "steps", "best_step", "train_loss", "holdout_start", "holdout_loss", "supervised_tokens", "tokens_per_s", "seconds",
    "peak_bytes",
)  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TITLES = {"peak bytes": "peak memory", "seconds": "time"}


def _shown(value: object, name: str = "") -> str:
    """In its unit, where the name of a result says one."""
    if value is None:
        return "-"
    if name == "peak bytes" and isinstance(value, int):
        return size(value)
    if name == "seconds" and isinstance(value, int | float):
        return duration(value)
    return figure(value) if isinstance(value, float) else str(value)


def _all_names(found: Curve) -> list[str]:
    return list(dict.fromkeys(name for point in found.points for name in point.values))


def _names(curves: Sequence[Curve], wanted: Sequence[str] | None, usual: Sequence[str]) -> list[str]:
    """What is drawn: what is wanted, else of the usual what was measured. Errors: NotFound."""
    from cloister.errors import NotFound

    known = list(dict.fromkeys(name for found in curves for name in _all_names(found)))
    for name in wanted or ():
        if name not in known:
            raise NotFound("nothing of that name was measured", remedy=f"There are {', '.join(known)}.")
    return list(wanted or [name for name in usual if name in known] or known[:1])


def _series(found: Curve, name: str) -> tuple[list[int], list[float]]:
    told = [(point.step, point.values[name]) for point in found.points if name in point.values]
    return [step for step, _ in told], [value for _, value in told]


def _draw(curves: Sequence[Curve], names: Sequence[str], *, of_which: bool = False) -> None:
    """Braille on a terminal that draws it; plain marks where standard output is no terminal. `of_which`: say whose."""
    import os
    import shutil

    import plotext

    terminal = sys.stdout.isatty()
    width = min(120, shutil.get_terminal_size((80, 24)).columns) if terminal else 80
    plotext.clear_figure()
    plotext.plot_size(width, HEIGHT)
    plotext.theme("clear")
    markers = (
        ("braille", "+", "x", "o") if terminal and os.environ.get("TERM") != "linux" else ("*", "+", "x", "o")
    )
    colours = (
        ("cyan", "orange", "green", "magenta") if terminal and "NO_COLOR" not in os.environ else (None,) * 4
    )
    lines = [(found, name) for name in names for found in curves]
    for number, (found, name) in enumerate(lines):
        steps, values = _series(found, name)
        if not steps:
            continue
        label = f"{found.name} {name}" if of_which else name
        options: dict[str, Any] = {"label": visible(label), "marker": markers[number % 4]}
        if colours[number % 4]:
            options["color"] = colours[number % 4]
        (plotext.plot if len(steps) > 1 else plotext.scatter)(steps, values, **options)
    plotext.xlabel("optimizer steps")
    text = plotext.build()
    print(text if terminal and "NO_COLOR" not in os.environ else plotext.uncolorize(text))


def _write_out(path: Path, curves: Sequence[Curve], names: Sequence[str], *, force: bool) -> None:
    from cloister.cli.run_files import write_file
    from cloister.errors import InvalidInput

    kind = path.suffix.lower()
    if kind == ".csv":
        data = _csv(curves)
    elif kind in PICTURES:
        data = _picture(curves, names, kind[1:])
    else:
        raise InvalidInput("is written as .svg, .png, .pdf or .csv", where=str(path))
    write_file(path, data, force=force)


def _csv(curves: Sequence[Curve]) -> bytes:
    import csv
    import io

    names = list(dict.fromkeys(name for found in curves for name in _all_names(found)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "step", *names])
    for found in curves:
        for point in found.points:
            writer.writerow([found.name, point.step, *(point.values.get(name, "") for name in names)])
    return text.getvalue().encode()


def _picture(curves: Sequence[Curve], names: Sequence[str], kind: str) -> bytes:
    import io

    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "cloister"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        for found in curves:
            steps, values = _series(found, name)
            label = f"{found.name} {name}" if len(curves) > 1 else name
            axes.plot(steps, values, label=label, marker="o" if len(steps) < 30 else None, markersize=3)
    axes.set_xlabel("optimizer steps")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(" and ".join(found.name for found in curves))
    data = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    figure.savefig(data, format=kind, dpi=150, metadata=metadata)
    return data.getvalue()
