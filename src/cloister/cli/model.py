"""Commands on merged models."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli import shredding
from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, size, visible
from cloister.cli.session import connect, watch

app = typer.Typer(no_args_is_help=True)


@app.command()
def merge(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run whose adapter is merged.")],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the merged model.")],
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer when comparing, in tokens.")
    ] = 96,
    json: JsonFlag = False,
) -> None:
    """Merge an adapter into 16 bits, measured against it; refused where it does not answer alike."""
    from cloister.api import MergeConfig, MergeRequest
    from cloister.cli.validation import validated

    config = validated(MergeConfig, max_new_tokens=max_new_tokens)
    request = validated(MergeRequest, name=name, run=run, config=config)
    with connect() as client:
        job = watch(client, client.merge(request).job_id, quiet=json)
        stored = client.model(job.subject or name)
    if json:
        print_json(stored)
    else:
        facts = stored.details
        say(
            f"{visible(stored.name)} ({stored.object_id}): merged on the {facts.get('base')} base, "
            f"loss {facts.get('loss_merged', 0):.4f} against the adapter's {facts.get('loss_adapter', 0):.4f}, "
            f"greedy agreement {facts.get('greedy_agreement', 0):.3f}; sealed, {size(stored.sealed_bytes)}."
        )


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the merged models."""
    with connect() as client:
        found = client.models()
    if json:
        print_json(found)
        return
    print_table(
        ("name", "id", "merged on", "agreement", "size", "made", "by"),
        [
            (
                m.name,
                m.object_id,
                m.details.get("base", "-"),
                m.details.get("greedy_agreement", "-"),
                size(m.sealed_bytes),
                moment(m.created_at),
                m.created_by,
            )
            for m in found
        ],
        empty="No merged model yet. Make one with `cloister model merge RUN --name NAME`.",
    )


@app.command()
def shred(
    reference: Annotated[str, typer.Argument(metavar="NAME", help="The model's name or id.")],
    dry_run: shredding.DryRun = False,
    take_down: shredding.TakeDown = False,
    yes: shredding.Yes = None,
    json: JsonFlag = False,
) -> None:
    """Destroy a merged model. The dataset stays."""
    shredding.shred(
        "models", reference, version=None, dry_run=dry_run, take_down=take_down, yes=yes, json=json
    )
