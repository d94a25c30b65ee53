"""A new run: what its form says as a request, and what the authority expects of it, in words.

Presets are those of `cloister.recipes`. It starts nothing but what the form is asked to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.asking import checked, given
from cloister.console.paint import bar, facts, outside, stack, state, styled
from cloister.console.screens.dialogs import Field
from cloister.shown import duration, figure, size

if TYPE_CHECKING:
    from cloister.api import PlanRequest, RunPlan, RunRequest
    from cloister.console.app import ConsoleApp
    from cloister.recipes import RunFile

USUAL = "none"
"""The choice of no preset: settings as they are where nothing is said."""
ADVICE = 6


def ask_run(console: ConsoleApp) -> None:
    """A short form: what to learn from, on what, how long; and what that would take."""
    from cloister.console.screens.new_run import NewRun
    from cloister.recipes import PRESETS

    picture = console.picture
    datasets = tuple(dict.fromkeys(one.name for one in picture.datasets))
    bases = tuple(dict.fromkeys(one.name for one in picture.bases))
    if not datasets or not bases:
        missing = "data (2, then i)" if not datasets else "a base model (4, then b)"
        console.say(f"A run needs {missing} first.", "warn")
        return
    usual = settings_of(USUAL)

    def go_on(values: dict[str, str]) -> None:
        request = given(console, lambda: run_of(values))
        if request is not None:
            console.request(
                lambda client: client.start_run(request),
                lambda run: console.say(f"{run.name} ({run.run_id}) is queued. 3 shows it."),
                doing=f"start {request.name}",
            )

    fields = [
        Field("name", "Name", help="a-z 0-9 . _ -", needed=True),
        Field("preset", "Preset", choices=(USUAL, *PRESETS), help="settings that ship"),
        Field("dataset", "Dataset", choices=datasets),
        Field("base", "Base model", choices=bases),
        Field("method", "Method", usual["method"], choices=("qlora", "lora"), help="NF4 or 16-bit base"),
        Field("epochs", "Epochs", usual["epochs"], help="passes over the rows", number=float),
        Field("rate", "Learning rate", usual["rate"], help="at its peak", number=float),
        Field("rank", "Rank", usual["rank"], help="of the adapter; its scale follows", number=int),
        Field("batch", "Batch size", usual["batch"], help="rows an optimizer step", number=int),
        Field("devices", "Devices", usual["devices"], help="share each step: GPUs, or processes"),
        Field("length", "Longest row", usual["length"], help="tokens; longer rows refuse", number=int),
        Field("priority", "Priority", "0", help="-10 to 10; higher starts first", number=int),
    ]
    console.ask_form("Start a run", fields, go_on, form=NewRun)


def settings_of(preset: str) -> dict[str, str]:
    """What a preset puts into the form's fields."""
    train = _file(preset).train_config()
    return {
        "method": train.method,
        "epochs": f"{train.epochs:g}",
        "rate": f"{train.learning_rate:g}",
        "rank": str(train.lora.rank),
        "batch": str(train.batch_size),
        "devices": str(train.processes),
        "length": str(train.max_length),
    }


def about_preset(preset: str) -> str:
    """What it is for."""
    from cloister.recipes import PRESETS

    return PRESETS.get(preset, "settings that ship")


def run_of(values: dict[str, str]) -> RunRequest:
    """The run that the form says: the preset, with its fields in place. Errors: InvalidInput, ValueError."""
    from cloister.api import RunRequest

    file = _file(values["preset"])
    usual = file.train_config()
    rank, batch = int(values["rank"]), int(values["batch"])
    train = file.train_config(
        method=values["method"],
        lora={"rank": rank, "alpha": usual.lora.alpha / usual.lora.rank * rank},
        epochs=float(values["epochs"]),
        learning_rate=float(values["rate"]),
        batch_size=batch,
        micro_batch_size=max(1, min(batch, usual.micro_batch_size)),
        processes=int(values["devices"]),
        max_length=int(values["length"]),
    )
    return checked(
        RunRequest,
        name=values["name"],
        dataset=values["dataset"],
        base=values["base"],
        train=train.model_dump(),
        evaluate=file.evaluate.model_dump() if file.evaluate is not None else None,
        priority=int(values["priority"]),
    )


def plan_of(values: dict[str, str]) -> PlanRequest:
    """The question what that run would take. Its name may still lack. Errors: InvalidInput, ValueError."""
    from cloister.api import PlanRequest

    asked = run_of(values | {"name": values["name"] or "plan"})
    return PlanRequest(dataset=asked.dataset, base=asked.base, train=asked.train, evaluate=asked.evaluate)


def expected(plan: RunPlan) -> Text:
    """A plan: memory against what there is, time with its span, cost; what to change where it does not fit."""
    share = plan.memory / plan.available if plan.available else 1.0
    memory = state("fits", "good") if plan.fits else state("does not fit", "bad")
    each = f" on each of {plan.processes}" if plan.processes > 1 and plan.device != "cpu" else ""
    memory += Text(
        f"  {bar(share)} {size(plan.memory)} of {size(plan.available)}{each}, {_basis(plan.memory_measured)}"
    )
    low, high = duration(plan.seconds_low), duration(plan.seconds_high)
    span = duration(plan.seconds) + (f" ({low} to {high})" if low != high else "")
    time = f"{span}, {_basis(plan.time_measured)}; {plan.steps:,} steps"
    after = f"{duration(plan.measuring_seconds)}, {_basis(plan.measuring_measured)}; once trained"
    costs = [] if plan.money is None else [f"{plan.money:.2f} {plan.currency}"]
    costs += [] if plan.energy_kwh is None else [f"{figure(plan.energy_kwh, 3)} kWh"]
    advice = [
        (
            "change",
            outside(" ".join(f"{name} {str(value).lower()}" for name, value in one.change.items()), 60)
            + outside(f": {size(one.memory)}, {'fits' if one.fits else 'not enough yet'} ({one.costs})", 100),
        )
        for one in plan.advice[:ADVICE]
    ]
    if not plan.fits and not plan.advice:
        advice = [("change", Text("no setting would make it fit: take a smaller base model"))]
    counted = "counted" if plan.lengths_measured else "estimated"
    rows = f"{plan.rows:,}, {plan.tokens:,} tokens, {counted}"
    served = f"{size(plan.serve.memory)}, {'fits' if plan.serve.fits else 'does not fit'} once merged"
    pairs: list[tuple[str, object]] = [("memory", memory), ("time", time), ("cost", ", ".join(costs))]
    pairs += [*advice, ("rows", rows), ("measuring", after if plan.measuring_seconds else "")]
    pairs += [("served", served)]
    pairs += [(f"· {part.name}", f"{size(part.bytes)}  {part.of}") for part in plan.parts]
    return stack(facts(pairs), *(outside(note) for note in plan.notes))


def no_plan(problem: str) -> Text:
    """Why there is no plan."""
    return styled("× no plan: ", "bold red") + outside(problem, 300)


def _basis(measured: bool) -> str:
    return "measured" if measured else "estimated"


def _file(preset: str) -> RunFile:
    """A preset's run file, or one that says nothing. Errors: NotFound."""
    from cloister.recipes import RunFile, parse_run_file, preset_text

    return RunFile() if preset == USUAL else parse_run_file(preset_text(preset).encode(), preset)
