"""Commands on base models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, size, visible
from cloister.cli.session import connect, watch

app = typer.Typer(no_args_is_help=True)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="A Hugging Face model folder with safetensors.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the base model.")],
    json: JsonFlag = False,
) -> None:
    """Import a base model from a local folder: safetensors and tokenizer files only, each hashed."""
    from cloister.api import BaseImport, BaseImportConfig
    from cloister.cli.validation import validated
    from cloister.sources import open_base_folder

    files = open_base_folder(folder)
    try:
        request = validated(BaseImport, name=name, config=BaseImportConfig(files=tuple(files)))
        with connect() as client:
            job = client.import_base(request, {f"file:{i}": fd for i, fd in enumerate(files.values())})
            job = watch(client, job.job_id, quiet=json)
            stored = client.base(job.subject or name)
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    if json:
        print_json(stored)
    else:
        say(f"{visible(stored.name)} ({stored.object_id}): {size(stored.sealed_bytes)}, every file hashed.")


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the base models."""
    with connect() as client:
        found = client.bases()
    if json:
        print_json(found)
        return
    print_table(
        ("name", "id", "parameters", "size", "made", "architecture"),
        [
            (
                b.name,
                b.object_id,
                f"{b.details.get('parameters', 0):,}",
                size(b.sealed_bytes),
                moment(b.created_at),
                b.details.get("architecture", "-"),
            )
            for b in found
        ],
        empty="No base model yet. Bring one in with `cloister base import FOLDER --name NAME`.",
    )
