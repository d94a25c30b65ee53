"""`cloister plan`: what a run will take, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.cli.output import JsonFlag, duration, print_json, print_table, say, size, visible
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import RunPlan


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
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", help="A training setting, such as lora.rank=8; several."
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say what a run will take: memory by part, time, energy and money; whether it fits, and what to change if not.

    Nothing starts. What was measured on this machine is marked so; the rest is estimated.
    """
    from cloister.api import PlanRequest
    from cloister.cli.run_files import run_request

    asked = run_request(
        (file, None, preset),
        train=_settings(set_ or []),
        lora={},
        named={"name": "plan", "dataset": dataset, "base": base, "holdout": holdout, "priority": None},
        evaluate="none",
        max_new_tokens=None,
    )
    request = PlanRequest(dataset=asked.dataset, base=asked.base, holdout=asked.holdout, train=asked.train)
    with connect() as client:
        found = client.plan(request)
    print_json(found) if json else _print(found)


def _settings(given: list[str]) -> dict[str, Any]:
    """`key=value` and `lora.key=value` as settings; values as YAML reads them."""
    import yaml

    from cloister.errors import InvalidInput

    values: dict[str, Any] = {}
    for item in given:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise InvalidInput("a setting is given as KEY=VALUE", where="--set")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InvalidInput("its value cannot be read", where=f"--set {visible(key)}") from None
        if key.startswith("lora."):
            values.setdefault("lora", {})[key.removeprefix("lora.")] = value
        else:
            values[key] = value
    return values


def _print(plan: RunPlan) -> None:
    print_table(
        ("memory", "", "depends on"),
        [
            *((part.name, size(part.bytes), part.of) for part in plan.parts),
            ("in all", size(plan.memory), _basis(plan.memory_measured, "corrected by runs on this machine")),
            ("there is", size(plan.available), plan.device),
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
    if plan.energy_kwh is not None:
        rows.append(("energy", f"{plan.energy_kwh:.3g} kWh", ""))
    if plan.money is not None:
        rows.append(("cost", f"{plan.money:.2f} {plan.currency}", ""))
    fits = "the merged model fits" if plan.serve.fits else "the merged model does not fit"
    rows.append(("served", size(plan.serve.memory), fits))
    if plan.fits:
        say("It fits.")
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
