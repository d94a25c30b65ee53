"""`cloister plan`: what a run will take, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli.output import JsonFlag, duration, figure, print_json, print_table, say, size, visible
from cloister.cli.run_files import Measuring, Setting
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import RunPlan, RunRequest


def add_commands(app: typer.Typer) -> None:
    """Hang the command into the root."""
    app.command()(plan)


def plan(
    file: Annotated[
        Path | None, typer.Argument(help="A run file, as `cloister run init` writes one.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="The dataset to learn from.")] = None,
    base: Annotated[str | None, typer.Option("--base", "-b", help="The base model.")] = None,
    holdout: Annotated[str | None, typer.Option(help="The dataset to measure on.")] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="Settings that ship: `cloister run presets`.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", metavar="N", min=1, help="GPUs, or processes on the CPU.")
    ] = None,
    set_: Setting = None,
    evaluate: Annotated[
        Measuring | None,
        typer.Option(help="What is measured when it is trained: pair, full, none; else as the file says."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say what a run will take: memory by part, time, energy and money; whether it fits, and what to change if not.

    Nothing starts. What was measured on this machine is marked so; the rest is estimated.
    """
    from cloister.api import PlanRequest
    from cloister.cli.run_files import run_named, run_request, settings_given

    asked = run_request(
        (file, None, preset),
        train={"processes": devices, **settings_given(set_ or [])},
        lora={},
        named={"name": "plan", "dataset": dataset, "base": base, "holdout": holdout, "priority": None},
        evaluate=evaluate,
        max_new_tokens=None,
        earlier=run_named,
    )
    request = PlanRequest(**{name: getattr(asked, name) for name in PlanRequest.model_fields})
    with connect() as client:
        found = client.plan(request)
    print_json(found) if json else _print(found, _counting(asked))


def _counting(asked: RunRequest) -> str:
    """The command that counts the tokens of these rows as this run would render them."""
    command = ["cloister dataset report", visible(asked.dataset), "--base", visible(asked.base)]
    if asked.train.template not in ("auto", "model"):
        command += ["--template", asked.train.template]
    if asked.train.loss_on != "assistant":
        command += ["--loss-on", asked.train.loss_on]
    return " ".join(command)


def _print(plan: RunPlan, counting: str | None = None) -> None:
    """`counting` is the command that tells lengths, where they are guessed."""
    several = plan.processes > 1
    whole, device = "in all", plan.device
    if several and plan.device == "cpu":
        whole, device = f"{plan.processes} processes", "cpu"
    elif several:
        whole, device = "on each device", f"{plan.processes} x {plan.device}"
    print_table(
        ("memory", "", "depends on"),
        [
            *((part.name, size(part.bytes), part.of) for part in plan.parts),
            (whole, size(plan.memory), _basis(plan.memory_measured, "corrected by runs on this machine")),
            ("there is", size(plan.available), device),
        ],
        empty="",
    )
    print()
    span = f"{duration(plan.seconds_low)} to {duration(plan.seconds_high)}"
    counted = _basis(plan.lengths_measured, "counted")
    rows: list[tuple[str, str, str]] = [
        ("steps", str(plan.steps), f"{plan.rows} rows, {plan.tokens} tokens, {counted}"),
        ("time", duration(plan.seconds), f"{span}, {_basis(plan.time_measured, 'by runs on this machine')}"),
    ]
    if plan.measuring_seconds:
        basis = _basis(plan.measuring_measured, "by evaluations on this machine")
        rows.append(("measuring", duration(plan.measuring_seconds), f"after training, {basis}"))
    if plan.energy_kwh is not None:
        rows.append(("energy", f"{figure(plan.energy_kwh, 3)} kWh", ""))
    if plan.money is not None:
        staff = f"{plan.staff_money:.2f} of it for people's hours on the data" if plan.staff_money else ""
        rows.append(("cost", f"{plan.money:.2f} {plan.currency}", staff))
    fits = "the merged model fits" if plan.serve.fits else "the merged model does not fit"
    rows.append(("served", size(plan.serve.memory), fits))
    print_table(("", "", ""), rows, empty="")
    for note in plan.notes:
        say(f"! {note}")
    if counting is not None and not plan.lengths_measured:
        say(f"Lengths are guessed from the dataset's size: `{counting}` counts them.")
    if plan.fits:
        say("It fits, and would be refused all the same." if plan.refused else "It fits.")
        return
    say(
        "! It does not fit."
        + ("" if plan.advice else " No setting would make it: take a smaller base model.")
    )
    for advice in plan.advice:
        changed = " ".join(f"--set {key}={str(value).lower()}" for key, value in advice.change.items())
        said = "fits" if advice.fits else "does not fit yet"
        say(f"  {changed}: {size(advice.memory)}, {said} ({advice.costs})")


def _basis(measured: bool, how: str) -> str:
    return how if measured else "estimated"
