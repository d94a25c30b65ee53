"""Commands on datasets."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from cloister.cli.leaving import Left
from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, size, visible
from cloister.cli.session import connect, watch

app = typer.Typer(no_args_is_help=True)

FormatName = Literal["auto", "jsonl", "csv"]


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="JSON lines (chat or prompt/completion) or CSV.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the dataset.")],
    input: Annotated[str | None, typer.Option(help="CSV: the column that the customer says.")] = None,
    output: Annotated[str | None, typer.Option(help="CSV: the column with the answer.")] = None,
    label: Annotated[
        str | None, typer.Option(help="CSV: the column with the class, for a classification.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="CSV: the column with the system message.")] = None,
    system_file: Annotated[
        Path | None, typer.Option(help="A file with one system message for every row.")
    ] = None,
    format: Annotated[FormatName, typer.Option(help="Recognised by content unless given.")] = "auto",
    holdout: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of rows kept apart for measuring.")
    ] = 0.1,
    max_dropped: Annotated[int, typer.Option(min=0, help="How many bad rows may be left out.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides which rows are held out.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Import a file, sealed. Every bad row is named as `file:line: field: rule`; one is enough to refuse."""
    from cloister.api import ColumnMap, DatasetImport, ImportConfig
    from cloister.cli.validation import validated
    from cloister.errors import CloisterError, InvalidInput

    columns = None
    if input or output or label or system:
        if not input or (output is None) == (label is None):
            raise InvalidInput("a table needs --input, and either --output or --label")
        columns = ColumnMap(input=input, output=output, label=label, system=system)
    prompt = None
    if system_file is not None:
        try:
            prompt = system_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InvalidInput("cannot be read as text", where=str(system_file)) from None
    request = validated(
        DatasetImport,
        name=name,
        config=validated(
            ImportConfig,
            source_name=source.name,
            format=format,
            columns=columns,
            system_prompt=prompt,
            holdout=holdout,
            max_dropped=max_dropped,
            seed=seed,
        ),
    )
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"cannot be opened: {error.strerror}", where=str(source)) from None
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput("is a folder, not a file", where=str(source))
    with connect() as client:
        reading, writing = os.pipe()
        reporter = threading.Thread(target=_print_report, args=(reading,), daemon=True)
        reporter.start()
        try:
            try:
                job = client.import_dataset(request, {"source": descriptor, "report": writing})
            finally:
                os.close(descriptor)
                os.close(writing)
            job = watch(client, job.job_id, quiet=json)
        except Left:
            raise  # the worker has not closed its end yet
        except CloisterError:
            reporter.join(timeout=5)
            raise
        reporter.join(timeout=5)
        stored = client.dataset(job.subject or name)
    if json:
        print_json(stored)
    else:
        counts = stored.counts
        say(
            f"{visible(stored.name)} ({stored.object_id}): {counts.get('rows', 0)} rows, "
            f"{counts.get('train_rows', 0)} to train on, {counts.get('holdout_rows', 0)} held out, "
            f"{counts.get('dropped', 0)} dropped; sealed, {size(stored.sealed_bytes)}."
        )


def _print_report(descriptor: int) -> None:
    """The worker's problems, line by line, straight from the worker to this terminal."""
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            print(visible(line.rstrip("\n")), file=sys.stderr)


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the datasets."""
    with connect() as client:
        found = client.datasets()
    if json:
        print_json(found)
        return
    print_table(
        ("name", "id", "rows", "held out", "size", "made", "by"),
        [
            (
                d.name,
                d.object_id,
                d.counts.get("rows", "-"),
                d.counts.get("holdout_rows", "-"),
                size(d.sealed_bytes),
                moment(d.created_at),
                d.created_by,
            )
            for d in found
        ],
        empty="No dataset yet. Bring one in with `cloister dataset import FILE --name NAME`.",
    )


@app.command()
def show(reference: Annotated[str, typer.Argument(metavar="NAME")], json: JsonFlag = False) -> None:
    """Show what is known of a dataset. No row is read."""
    with connect() as client:
        stored = client.dataset(reference)
    if json:
        print_json(stored)
        return
    facts = {
        "name": stored.name,
        "id": stored.object_id,
        "manifest": stored.manifest_sha256,
        **stored.counts,
        **{key: value for key, value in stored.details.items() if value != []},
    }
    print_table(("", ""), facts.items(), empty="")
