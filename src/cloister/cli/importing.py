"""`cloister dataset import`: the source opened with the caller's rights, its columns mapped, its removal afterwards."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloister.cli.leaving import Left
from cloister.cli.output import JsonFlag, print_json, say, size, visible
from cloister.cli.session import connect, watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloister.api import ColumnMap, Job, StoredObject
    from cloister.client import Client
    from cloister.removal import Removable

FormatName = Literal["auto", "jsonl", "json", "csv", "parquet", "text", "lines", "document"]
EncodingName = Literal[
    "auto", "utf-8", "utf-16-le", "utf-16-be", "windows-1252", "windows-1250", "latin-1", "latin-9"
]
ClassName = Literal["public", "internal", "confidential", "restricted"]
_MAX_MAP = 1 << 16


def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="JSON lines or a JSON array (chat, ShareGPT, Alpaca, prompt and completion, text), CSV, Parquet or "
            "plain text; gzip or zstd around any but Parquet. Several become one dataset.",
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
    context: Annotated[
        str | None, typer.Option(help="A column whose text follows the question on a line of its own.")
    ] = None,
    messages: Annotated[
        str | None, typer.Option(help="The field with the turns, if not `messages` or `conversations`.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The column with plain text, for a model that is to learn a domain.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="A column by which results are told apart later (site, product). Repeatable."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="A field that JSON rows of a known format, or turns, may have besides. Repeatable."
        ),
    ] = None,
    map: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with input, output, label, system, context, text, messages, role, content, roles, "
            "groups, ignore; options win."
        ),
    ] = None,
    system_file: Annotated[
        Path | None, typer.Option(help="A file with one system message for every row that has none.")
    ] = None,
    format: Annotated[
        FormatName,
        typer.Option(
            help="Recognised by content unless given. `text` makes a row of what stands between blank lines, `lines` "
            "of each line, `document` of each file."
        ),
    ] = "auto",
    encoding: Annotated[
        EncodingName,
        typer.Option(help="Of text. UTF-8 unless given, or a byte-order mark says that it is UTF-16."),
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
            help="After the import, overwrite each file once and remove it. Says first what that promises here.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the source without asking.")] = False,
    json: JsonFlag = False,
) -> None:
    """Import a file, or several as one, sealed.

    Every bad row is named as `file:line: field: rule`; one is enough to refuse.
    """
    from cloister.api import DatasetImport, ImportConfig
    from cloister.cli.validation import validated
    from cloister.errors import InvalidInput
    from cloister.removal import Removable

    if dry_run and remove_source:
        raise InvalidInput("a dry run keeps nothing, so the source is not removed", where="--remove-source")
    if name is None and not dry_run:
        raise InvalidInput("the dataset needs a name", remedy="Use --name.")
    given = {"input": input, "output": output, "label": label, "system": system, "text": text}
    given |= {"context": context, "messages": messages}
    request = validated(
        DatasetImport,
        name=name or "dry-run",
        config=validated(
            ImportConfig,
            source_name=sources[0].name,
            more=tuple(source.name for source in sources[1:]),
            format=format,
            encoding=encoding,
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
        removables = [stack.enter_context(Removable(source)) for source in sources] if remove_source else []
        if removables:
            _ask_to_remove(removables, yes)
        descriptors = _opened(sources, stack)
        for removable, descriptor in zip(removables, descriptors, strict=False):
            removable.check_same(descriptor)
        client = stack.enter_context(connect())
        job = _carried_out(client, request, descriptors, quiet=json)
        if dry_run:
            _tell_dry_run(job.result, json=json)
            return
        stored = client.dataset(job.subject or request.name)
        removed = _removed(client, removables, descriptors, stored) if removables else []
    if json:
        # One file's is an object, as ever; those of several are a list.
        told = removed[0] if len(removed) == 1 else removed
        print_json(stored if not removed else {**stored.model_dump(mode="json"), "source_removed": told})
        return
    counts = stored.counts
    say(
        f"{visible(stored.name)} ({stored.object_id}): {counts.get('rows', 0)} rows "
        f"({stored.details.get('source_format', '?')}, {stored.details.get('task', '?')}), "
        f"{counts.get('train_rows', 0)} to train on, {counts.get('holdout_rows', 0)} held out, "
        f"{counts.get('dropped', 0)} dropped; sealed, {size(stored.sealed_bytes)}; {stored.classification}."
    )
    for source, gone in zip(sources, removed, strict=False):
        how = f"was overwritten once ({size(gone['overwritten'])}) and" if gone["overwritten"] else "was"
        say(f"{visible(source.name)} {how} removed.")


def _columns(path: Path | None, given: dict[str, Any]) -> ColumnMap | None:
    """What is mapped by a file and by options; options win."""
    from cloister.api import ColumnMap
    from cloister.cli.validation import validated
    from cloister.errors import InvalidInput
    from cloister.recipes.column_map import read_column_map

    values = read_column_map(path) if path is not None else {}
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


def _opened(sources: Sequence[Path], stack: contextlib.ExitStack) -> list[int]:
    """Descriptors that the stack closes."""
    from cloister.sources import open_source

    descriptors: list[int] = []
    for source in sources:
        descriptors.append(open_source(source, "Name its files, such as FOLDER/*.parquet."))
        stack.callback(os.close, descriptors[-1])
    return descriptors


def _carried_out(client: Client, request: Any, descriptors: Sequence[int], *, quiet: bool) -> Job:
    """The import, its problems told as they come."""
    from cloister.errors import CloisterError

    reading, writing = os.pipe()
    reporter = threading.Thread(target=_print_report, args=(reading,), daemon=True)
    reporter.start()
    try:
        try:
            roles = {f"source:{n}" if n else "source": each for n, each in enumerate(descriptors)}
            job = client.import_dataset(request, {**roles, "report": writing})
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


def _ask_to_remove(removables: Sequence[Removable], yes: bool) -> None:
    """Tell the owner of the sources what removing them promises. Raises InvalidInput where they do not want it."""
    from cloister.errors import InvalidInput

    for removable in removables:
        ground = removable.ground
        say(f"After the import {visible(removable.path.name)} will be removed ({ground.filesystem}):")
        for sentence in ground.words:
            say(f"  {sentence}")
    say("  What the import leaves out (columns that no row needs) goes with it.")
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidInput("there is no terminal to ask at", remedy="Use --yes.", where="--remove-source")
        if not typer.confirm("Import it, and then remove it?", err=True):
            raise InvalidInput("nothing was imported and nothing removed")


def _removed(
    client: Client, removables: Sequence[Removable], descriptors: Sequence[int], stored: StoredObject
) -> list[dict[str, Any]]:
    """Remove the sources, now that their rows are sealed, each when its removal is entered. Raises InvalidInput where
    they must stay."""
    from cloister.errors import InvalidInput

    dropped = stored.counts.get("dropped", 0)
    if dropped:
        raise InvalidInput(
            f"the rows are imported, but {dropped} were left out and stand nowhere else: the file was not removed",
            where=str(removables[0].path),
        )
    told: list[dict[str, Any]] = []
    for removable, descriptor in zip(removables, descriptors, strict=True):
        ground = removable.ground
        overwritten = removable.go(
            descriptor,
            lambda on: client.source_goes(stored.object_id, on.filesystem, overwritten=on.overwrite),
        )
        told.append(
            {"overwritten": overwritten, "filesystem": ground.filesystem, "promise": list(ground.words)}
        )
    return told
