"""Commands on merged models: merge, list, export, shred."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from cloister.cli import shredding
from cloister.cli.leaving import Left
from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, size, visible, warn_of
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
        warn_of(client.run(run))
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
def export(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name or id.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or an empty one.", show_default=False)
    ],
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", "-r", help="Encrypt to this age recipient (age1…); may be repeated."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="In the clear, as transformers and vLLM load it.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Take a merged model out of the house, signed: encrypted to a recipient, or in the clear.

    It takes somebody's approval where there are roles, and each approval is for one attempt. In the clear leaves
    only what came of public and internal data, unless your policies say otherwise. DIR appears when it is whole.
    """
    from cloister.api import ExportRequest
    from cloister.cli.validation import validated
    from cloister.errors import CloisterError, InvalidInput
    from cloister.home import Home
    from cloister.targets import ExportFolder

    if plain == bool(recipient):
        raise InvalidInput(
            "say how it is to leave: encrypted or in the clear",
            remedy="Give `--recipient age1…`, or else `--plain`.",
        )
    request = validated(
        ExportRequest, form="plain" if plain else "encrypted", recipients=tuple(recipient or ())
    )
    with connect() as client:
        model = client.model(reference)
        home = Home.default().root
        target = ExportFolder(folder, model.name, request.form, need=model.sealed_bytes, outside=(home,))
        with target:
            job = client.export_model(model.object_id, request, target.output)
            target.handed_over()
            try:
                job = watch(client, job.job_id, quiet=json)
            except Left:
                with contextlib.suppress(CloisterError):
                    client.cancel_job(job.job_id)
                raise Left(
                    "the export was stopped, and what had come was removed.",
                    remedy="Its approval is used up: asked for again, it takes another one.",
                ) from None
            except CloisterError:
                if target.failed is not None:  # that it could not be written here is why it failed there
                    raise target.failed from None
                raise
            target.finish()
    if json:
        print_json({"folder": str(target.folder), **job.result})
        return
    how = "in the clear" if plain else f"in {model.name}.tar.age"
    say(
        f"{visible(str(target.folder))}: {visible(model.name)} {how}, {job.result.get('files', 0)} files, "
        f"{size(job.result.get('bytes', 0))}, signed (model.sig). `cloister model signing-key` prints the key that "
        "it is checked with."
    )


@app.command("signing-key")
def signing_key(json: JsonFlag = False) -> None:
    """Print the public key that exported models are checked with, for whoever receives one."""
    with connect() as client:
        key = client.model_signing_key()
    if json:
        print_json(key)
    else:
        print(key.public_key, end="")
        say(f"SHA-256 {key.sha256}. Hand it over by another way than the export.")


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
