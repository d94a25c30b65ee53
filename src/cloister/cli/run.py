"""Commands on fine-tuning runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cloister.cli import curves, run_files, run_shown, shredding
from cloister.cli.leaving import leaving
from cloister.cli.output import (
    JsonFlag,
    describe,
    moment,
    print_json,
    print_table,
    say,
    standing,
    visible,
    warn_of,
)
from cloister.cli.session import connect, watch

if TYPE_CHECKING:
    from cloister.api import Run
    from cloister.client import Client

app = typer.Typer(no_args_is_help=True)
app.command("init")(run_files.init)
app.command("presets")(run_files.presets)
app.command("curve")(curves.curve)
app.command("compare")(curves.compare)

Method = Literal["qlora", "lora"]
Template = Literal["auto", "model", "llama3", "qwen3", "chatml"]
LossOn = Literal["assistant", "last", "all"]
Packing = Literal["auto", "on", "off"]
Reference = Annotated[str, typer.Argument(metavar="RUN", help="The run's name or id, or its job's id.")]


@app.command()
def start(
    file: Annotated[
        Path | None,
        typer.Argument(help="A run file, as `cloister run init` writes one. Options go before it."),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="The dataset to learn from.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="The base model; with --from-run, that run's.")
    ] = None,
    from_run: Annotated[
        str | None, typer.Option("--from-run", metavar="RUN", help="Go on with what that run has learnt.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="What to call the run.")] = None,
    holdout: Annotated[
        str | None, typer.Option(help="Measure on this dataset instead of the hold-out.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="Settings that ship: `cloister run presets`.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file of training settings.")
    ] = None,
    method: Annotated[Method | None, typer.Option(help="NF4 base (qlora) or 16-bit base (lora).")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapter.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Scale of the adapter; alpha / rank multiplies it.")
    ] = None,
    rslora: Annotated[
        bool | None, typer.Option("--rslora", help="Scale by alpha / sqrt(rank): for high ranks.")
    ] = None,
    dora: Annotated[
        bool | None, typer.Option("--dora", help="Train the length of each row apart: slower, for low ranks.")
    ] = None,
    template: Annotated[
        Template | None,
        typer.Option(help="Chat template: the base model's own (auto, model), or one of ours."),
    ] = None,
    loss_on: Annotated[
        LossOn | None, typer.Option(help="Learn every assistant turn, the last, or all tokens.")
    ] = None,
    packing: Annotated[
        Packing | None, typer.Option(help="Rows end to end without padding, where that is exact.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows an optimizer step.")] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows through the model at once.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Longest row, in tokens.")] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=0, help="Learn only so many of the rows, drawn by the seed; 0: all.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="End after so many evaluations without a lower loss; 0 never.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--devices",
            "--processes",
            metavar="N",
            min=1,
            help="Share each step's rows among so many GPUs, or processes on the CPU: the same result.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of rows and of the adapter's start.")] = None,
    set_: run_files.Setting = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer when measuring; else 16 tokens over the longest expected."),
    ] = None,
    evaluate: Annotated[
        run_files.Measuring | None,
        typer.Option(help="When trained: base against tuned (pair), the whole table (full), nothing."),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            min=-10,
            max=10,
            help="Higher starts first; among equals people take turns. Above 0 it is an operator's to give.",
        ),
    ] = None,
    watch_: Annotated[
        bool, typer.Option("--watch", "-w", help="Show progress; ctrl-c leaves it running.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Fine-tune a base model on a dataset, then measure it against the base on the hold-out.

    What a run file or a preset says, an option overrides.
    """
    from cloister.cli.run_files import run_request

    request = run_request(
        (file, config, preset),
        train=run_files.settings_given(set_ or [])
        | run_files.given(
            {
                "method": method,
                "epochs": epochs,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "micro_batch_size": micro_batch_size,
                "max_length": max_length,
                "max_rows": max_rows,
                "template": template,
                "loss_on": loss_on,
                "packing": packing,
                "patience": patience,
                "processes": processes,
                "seed": seed,
            }
        ),
        lora={"rank": rank, "alpha": alpha, "rslora": rslora, "dora": dora},
        named={
            "name": name,
            "dataset": dataset,
            "base": base,
            "holdout": holdout,
            "from_run": from_run,
            "priority": priority,
        },
        evaluate=evaluate,
        max_new_tokens=max_new_tokens,
        earlier=run_files.run_named,
    )
    with connect() as client:
        run = client.start_run(request)
        if watch_:
            run = _watch(client, run.run_id, quiet=json)
    if json:
        print_json(run)
    elif watch_:
        run_shown.print_outcome(run)
    else:
        say(f"{visible(run.name)} ({run.run_id}) is queued. Watch it with `cloister run watch {run.name}`.")


@app.command()
def rebase(
    reference: Reference,
    base: Annotated[str, typer.Option("--base", "-b", help="The other base model.")],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="What to call the new run; else RUN-BASE.")
    ] = None,
    template: Annotated[
        Template | None, typer.Option(help="Chat template, where the run's does not fit the other base.")
    ] = None,
    watch_: Annotated[
        bool, typer.Option("--watch", "-w", help="Show progress; ctrl-c leaves it running.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Repeat a run on another base model: the same rows, settings and hold-out; then show both side by side."""
    from cloister.api import RunRequest
    from cloister.cli.validation import validated

    with connect() as client:
        before = client.run(reference)
        if before.from_run is not None:
            say(
                f"! {visible(before.name)} went on from another run. On another base this one begins anew, and learns "
                "its own rows alone."
            )
        train = before.train if template is None else before.train.model_copy(update={"template": template})
        request = validated(
            RunRequest,
            name=name or f"{before.name[:40]}-{client.base(base).name[:22]}",
            dataset=before.dataset,
            base=base,
            holdout=before.holdout,
            rebase_of=before.run_id,
            train=train,
            evaluate=before.evaluate,
        )
        run = client.start_run(request)
        if watch_:
            run = _watch(client, run.run_id, quiet=json)
    if json:
        print_json(run)
    elif watch_:
        curves.compare(before.run_id, run.run_id)
    else:
        say(
            f"{visible(run.name)} ({run.run_id}) is queued. When it is done: "
            f"`cloister run compare {before.name} {run.name}`."
        )


def _watch(client: Client, reference: str, *, quiet: bool) -> Run:
    """Follow training, then the evaluation that comes after it. Errors: what either failed with, also where an adapter
    from before was kept; not while that is measured."""
    run = client.run(reference)
    if run.evaluate_job is None or run.train_job.state != "failed":
        watch(client, run.train_job.job_id, quiet=quiet)
        run = client.run(run.run_id)
    if run.evaluate_job is not None:
        watch(client, run.evaluate_job.job_id, quiet=quiet)
    return client.run(run.run_id)


@app.command("watch")
def watch_run(reference: Reference, json: JsonFlag = False) -> None:
    """Pick up a run's progress where it is. Ctrl-C leaves it running."""
    with connect() as client:
        run = _watch(client, reference, quiet=json)
    warn_of(run)
    print_json(run) if json else run_shown.print_outcome(run)


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the runs."""
    with connect() as client:
        found = client.runs()
    if json:
        print_json(found)
        return
    print_table(
        ("name", "id", "loss", "exact", "started", "state"),
        [
            (
                r.name,
                r.run_id,
                run_shown.number(r.train_job.result.get("holdout_loss")),
                run_shown.number((r.evaluation or {}).get("tuned", {}).get("exact_match")),
                moment(r.created_at),
                describe(standing(r)),
            )
            for r in found
        ],
        empty="No run yet. Start one with `cloister run start --dataset D --base B --name N --watch`.",
    )


@app.command()
def show(reference: Reference, json: JsonFlag = False) -> None:
    """Show a run: its settings, its jobs, and base against tuned."""
    with connect() as client:
        run = client.run(reference)
        print_json(run) if json else run_shown.print_run(client, run)


@app.command()
def resume(
    reference: Reference,
    watch_: Annotated[bool, typer.Option("--watch", "-w", help="Show progress.")] = False,
    json: JsonFlag = False,
) -> None:
    """Go on from the last checkpoint of a run that was paused, stopped or cut off."""
    with connect() as client:
        run = client.resume_run(reference)
        if watch_:
            run = _watch(client, run.run_id, quiet=json)
    if json:
        print_json(run)
    elif watch_:
        run_shown.print_outcome(run)
    else:
        say(f"{visible(run.name)} is queued again.")


@app.command()
def pause(reference: Reference, json: JsonFlag = False) -> None:
    """Stop a run at a checkpoint and free its device for others, until `run resume`."""
    with connect() as client, leaving("it is being paused all the same.", "See `cloister run list`."):
        run = client.pause_run(reference)
    print_json(run) if json else say(
        f"{visible(run.name)} is being paused: `cloister run resume {run.name}`."
    )


@app.command()
def retry(reference: Reference, json: JsonFlag = False) -> None:
    """Begin a run anew that failed or was stopped; its checkpoints are given up."""
    with connect() as client:
        run = client.retry_run(reference)
    print_json(run) if json else say(f"{visible(run.name)} is queued anew.")


@app.command()
def cancel(reference: Reference, json: JsonFlag = False) -> None:
    """Stop a run; it writes a checkpoint first and can be resumed."""
    with connect() as client, leaving("it is being stopped all the same.", "See `cloister run list`."):
        run = client.cancel_run(reference)
    print_json(run) if json else say(f"{visible(run.name)} is being stopped.")


@app.command()
def shred(
    reference: Reference,
    dry_run: shredding.DryRun = False,
    take_down: shredding.TakeDown = False,
    yes: shredding.Yes = None,
    json: JsonFlag = False,
) -> None:
    """Destroy a run with its checkpoints, adapter and evaluation, and the models merged from it. The dataset stays."""
    shredding.shred("runs", reference, version=None, dry_run=dry_run, take_down=take_down, yes=yes, json=json)
