"""`cloister dataset import`: the source opened with the caller's rights, its columns mapped, its removal afterwards."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloister.cli.leaving import Left
from cloister.cli.output import JsonFlag, print_json, say, size, visible
from cloister.cli.session import connect, watch

if TYPE_CHECKING:
    from cloister.api import ColumnMap, Job
    from cloister.client import Client
    from cloister.removal import Removable

FormatName = Literal["auto", "jsonl", "json", "csv", "parquet", "text", "lines"]
ClassName = Literal["public", "internal", "confidential", "restricted"]
_MAX_MAP = 1 << 16


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="JSON lines or a JSON array (chat, ShareGPT, Alpaca, prompt and completion, text), CSV, Parquet or "
            "plain text; gzip or zstd around any but Parquet.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="What to call the dataset. Not needed with --dry-run.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="The column, or field of flat JSON, with the question.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="The column with the answer.")] = None,
    label: Annotated[
        str | None, typer.Option(help="The column with the class, for a classification.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The column with the system message.")] = None,
    text: Annotated[
        str | None, typer.Option(help="The column with plain text, for a model that is to learn a domain.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="A column by which results are told apart later (site, product). Repeatable."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="A field that JSON rows of a known format may have besides theirs. Repeatable."),
    ] = None,
    map: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with input, output, label, system, text, groups, ignore; options win."
        ),
    ] = None,
    system_file: Annotated[
        Path | None, typer.Option(help="A file with one system message for every row that has none.")
    ] = None,
    format: Annotated[
        FormatName,
        typer.Option(
            help="Recognised by content unless given. `text` makes a row of what stands between blank lines, `lines` "
            "of each line."
        ),
    ] = "auto",
    holdout: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of rows kept apart for measuring.")
    ] = 0.1,
    max_dropped: Annotated[int, typer.Option(min=0, help="How many bad rows may be left out.")] = 0,
    max_row_mib: Annotated[int, typer.Option(min=1, max=64, help="Rows longer than this are bad.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides which rows are held out.")] = 0,
    classification: Annotated[
        ClassName | None,
        typer.Option(
            "--class", help="How strictly it is kept, and all that is made of it; else as the settings say."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only read it: list problems and counts, write nothing.")
    ] = False,
    remove_source: Annotated[
        bool,
        typer.Option(
            "--remove-source",
            help="After the import, overwrite the file once and remove it. Says first what that promises here.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the source without asking.")] = False,
    json: JsonFlag = False,
) -> None:
    """Import a file, sealed. Every bad row is named as `file:line: field: rule`; one is enough to refuse."""
    from cloister.api import DatasetImport, ImportConfig
    from cloister.cli.validation import validated
    from cloister.errors import InvalidInput

    if dry_run and remove_source:
        raise InvalidInput("a dry run keeps nothing, so the source is not removed", where="--remove-source")
    if name is None and not dry_run:
        raise InvalidInput("the dataset needs a name", remedy="Use --name.")
    given = {"input": input, "output": output, "label": label, "system": system, "text": text}
    request = validated(
        DatasetImport,
        name=name or "dry-run",
        config=validated(
            ImportConfig,
            source_name=source.name,
            format=format,
            columns=_columns(map, {**given, "groups": group, "ignore": ignore}),
            system_prompt=_read_text(system_file).strip() if system_file else None,
            holdout=holdout,
            max_dropped=max_dropped,
            max_row_bytes=max_row_mib << 20,
            seed=seed,
        ),
        classification=classification,
        dry_run=dry_run,
    )
    with contextlib.ExitStack() as stack:
        removable = _asked_to_remove(source, yes) if remove_source else None
        if removable is not None:
            stack.enter_context(removable)
        descriptor = _opened(source)
        stack.callback(os.close, descriptor)
        if removable is not None:
            removable.check_same(descriptor)
        client = stack.enter_context(connect())
        job = _carried_out(client, request, descriptor, quiet=json)
        if dry_run:
            _tell_dry_run(job.result, json=json)
            return
        stored = client.dataset(job.subject or request.name)
        removed = None
        if removable is not None:
            removed = _removed(removable, descriptor, stored.counts.get("dropped", 0))
    if json:
        print_json(
            stored if removed is None else {**stored.model_dump(mode="json"), "source_removed": removed}
        )
        return
    counts = stored.counts
    say(
        f"{visible(stored.name)} ({stored.object_id}): {counts.get('rows', 0)} rows, "
        f"{counts.get('train_rows', 0)} to train on, {counts.get('holdout_rows', 0)} held out, "
        f"{counts.get('dropped', 0)} dropped; sealed, {size(stored.sealed_bytes)}; {stored.classification}."
    )
    if removed is not None:
        how = (
            f"was overwritten once ({size(removed['overwritten'])}) and" if removed["overwritten"] else "was"
        )
        say(f"{visible(source.name)} {how} removed.")


def _columns(path: Path | None, given: dict[str, Any]) -> ColumnMap | None:
    """What is mapped by a file and by options; options win."""
    from cloister.api import ColumnMap
    from cloister.cli.validation import validated
    from cloister.errors import InvalidInput

    values: dict[str, Any] = {}
    if path is not None:
        import yaml

        try:
            values = yaml.safe_load(_read_text(path)) or {}
        except yaml.YAMLError:
            raise InvalidInput("is no YAML", where=str(path)) from None
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise InvalidInput("must hold names and columns, one a line", where=str(path))
        for several in ("groups", "ignore"):
            if isinstance(values.get(several), str):
                values[several] = [values[several]]
    values |= {name: value for name, value in given.items() if value}
    try:
        return validated(ColumnMap, **values) if values else None
    except InvalidInput as error:
        error.where = str(path) if path is not None else None
        raise


def _read_text(path: Path) -> str:
    from cloister.errors import InvalidInput

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MAP + 1)
        if len(data) > _MAX_MAP:
            raise InvalidInput(f"is longer than {_MAX_MAP >> 10} KiB", where=str(path))
        return data.decode()
    except (OSError, UnicodeDecodeError):
        raise InvalidInput("cannot be read as text", where=str(path)) from None


def _opened(source: Path) -> int:
    from cloister.errors import InvalidInput

    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"cannot be opened: {error.strerror}", where=str(source)) from None
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput("is a folder, not a file", where=str(source))
    return descriptor


def _carried_out(client: Client, request: Any, descriptor: int, *, quiet: bool) -> Job:
    """The import, its problems told as they come."""
    from cloister.errors import CloisterError

    reading, writing = os.pipe()
    reporter = threading.Thread(target=_print_report, args=(reading,), daemon=True)
    reporter.start()
    try:
        try:
            job = client.import_dataset(request, {"source": descriptor, "report": writing})
        finally:
            os.close(writing)
        job = watch(client, job.job_id, quiet=quiet)
    except Left:
        raise  # the worker has not closed its end yet
    except CloisterError:
        reporter.join(timeout=5)
        raise
    reporter.join(timeout=5)
    return job


def _print_report(descriptor: int) -> None:
    """The worker's problems, line by line, straight from the worker to this terminal."""
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            print(visible(line.rstrip("\n")), file=sys.stderr)


def _tell_dry_run(result: dict[str, Any], *, json: bool) -> None:
    """What an import would do; exit status 2 where it would be refused."""
    if json:
        print_json(result)
    else:
        say(
            f"{result.get('rows', 0)} good rows, {result.get('bad_rows', 0)} bad ones with "
            f"{result.get('problems', result.get('bad_rows', 0))} problems. Nothing was written."
        )
        if result.get("would_import"):
            say(
                f"It would be imported: {result.get('source_format')}, {result.get('task')}, "
                f"{result.get('train_rows', 0)} rows to train on, {result.get('holdout_rows', 0)} held out."
            )
        else:
            where = f"{visible(str(result['where']))}: " if result.get("where") else ""
            remedy = f" {result['remedy']}" if result.get("remedy") else ""
            say(f"It would be refused: {where}{visible(str(result.get('refused')))}.{visible(remedy)}")
    if not result.get("would_import"):
        raise typer.Exit(2)


def _asked_to_remove(source: Path, yes: bool) -> Removable:
    """The source, to be removed later, once its owner has heard what that promises."""
    from cloister.errors import InvalidInput
    from cloister.removal import Removable

    removable = Removable(source)
    try:
        say(f"After the import {visible(source.name)} will be removed ({removable.ground.filesystem}):")
        for sentence in removable.ground.words:
            say(f"  {sentence}")
        say("  What the import leaves out (columns that no row needs) goes with it.")
        if not yes:
            if not sys.stdin.isatty():
                raise InvalidInput(
                    "there is no terminal to ask at", remedy="Use --yes.", where="--remove-source"
                )
            if not typer.confirm("Import it, and then remove it?", err=True):
                raise InvalidInput("nothing was imported and nothing removed")
    except BaseException:
        removable.close()
        raise
    return removable


def _removed(removable: Removable, descriptor: int, dropped: int) -> dict[str, Any]:
    """Remove the source, now that its rows are sealed. Raises InvalidInput where it must stay."""
    from cloister.errors import InvalidInput

    if dropped:
        raise InvalidInput(
            f"the rows are imported, but {dropped} were left out and stand nowhere else: the file was not removed",
            where=str(removable.path),
        )
    removable.check_same(descriptor)
    overwritten = removable.remove()
    ground = removable.ground
    return {"overwritten": overwritten, "filesystem": ground.filesystem, "promise": list(ground.words)}
