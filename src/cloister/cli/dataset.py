"""Commands on datasets."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from cloister.cli import shredding
from cloister.cli.leaving import Left
from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, size, visible
from cloister.cli.session import connect, watch

app = typer.Typer(no_args_is_help=True)

FormatName = Literal["auto", "jsonl", "csv"]
ClassName = Literal["public", "internal", "confidential", "restricted"]


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
    classification: Annotated[
        ClassName | None,
        typer.Option(
            "--class", help="How strictly it is kept, and all that is made of it; else as the settings say."
        ),
    ] = None,
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
        classification=classification,
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
            f"{counts.get('dropped', 0)} dropped; sealed, {size(stored.sealed_bytes)}; {stored.classification}."
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
        ("name", "id", "version", "class", "rows", "held out", "size", "made", "by"),
        [
            (
                d.name,
                d.object_id,
                d.version,
                d.classification,
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
        "class": stored.classification,
        "manifest": stored.manifest_sha256,
        **stored.counts,
        **{key: value for key, value in stored.details.items() if value != []},
    }
    print_table(("", ""), facts.items(), empty="")


Reference = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name or id.")]


@app.command()
def classify(
    reference: Reference,
    classification: Annotated[ClassName, typer.Argument(metavar="CLASS", show_default=False)],
    json: JsonFlag = False,
) -> None:
    """Say how strictly a dataset is kept: public, internal, confidential or restricted.

    What was made of it follows: runs, adapters, merged models. Stricter counts at once; milder takes
    somebody else's approval.
    """
    from cloister.api import ClassifyRequest

    request = ClassifyRequest(classification=classification)
    order = get_args(ClassName)
    with connect() as client:
        before = client.dataset(reference).classification or order[-1]
        milder = order.index(classification) < order.index(before)
        stored = (client.declassify if milder else client.classify)(reference, request)
    print_json(stored) if json else say(f"{visible(stored.name)} is {stored.classification}, was {before}.")


@app.command()
def shred(
    reference: Reference,
    version: Annotated[
        int | None, typer.Option(min=1, help="Only this version; all of them unless given.")
    ] = None,
    dry_run: shredding.DryRun = False,
    take_down: shredding.TakeDown = False,
    yes: shredding.Yes = None,
    json: JsonFlag = False,
) -> None:
    """Destroy a dataset and everything derived from it: runs, checkpoints, adapters, evaluations, merged models.

    Their keys are destroyed and their files removed. It is entered before and after, and finishes itself
    when it is cut off. Refused while something derived is served or running, or under a legal hold.
    """
    shredding.shred(
        "datasets", reference, version=version, dry_run=dry_run, take_down=take_down, yes=yes, json=json
    )


@app.command()
def hold(
    reference: Reference,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the ledger. No personal data.")],
    json: JsonFlag = False,
) -> None:
    """Place a legal hold: neither the dataset nor anything derived from it can be shredded until its release."""
    from cloister.api import HoldRequest
    from cloister.cli.validation import validated

    with connect() as client:
        placed = client.hold(reference, validated(HoldRequest, reason=reason))
    print_json(placed) if json else say(f"{visible(placed.name)} is held ({placed.hold_id}).")


@app.command()
def release(reference: Reference, json: JsonFlag = False) -> None:
    """End the legal holds on a dataset; the id of one hold ends just that one."""
    with connect() as client:
        ended = client.release(reference)
    print_json(ended) if json else say(f"Released: {', '.join(hold.hold_id for hold in ended)}.")


@app.command()
def holds(json: JsonFlag = False) -> None:
    """List the legal holds, those that were released too."""
    with connect() as client:
        found = client.holds()
    if json:
        print_json(found)
        return
    print_table(
        ("id", "dataset", "since", "by", "released", "reason"),
        [
            (h.hold_id, h.name, moment(h.placed_at), h.placed_by, moment(h.released_at), h.reason)
            for h in found
        ],
        empty="No hold.",
    )


@app.command()
def forget(
    reference: Reference,
    identifiers_fd: Annotated[
        int | None,
        typer.Option(
            "--identifiers-fd", metavar="N", help="Read the identifiers from this descriptor, one a line."
        ),
    ] = None,
    whole_words: Annotated[
        bool, typer.Option("--whole-words", help="Only where no letter or digit stands beside them.")
    ] = False,
    when: Annotated[
        Literal["later", "now"],
        typer.Option("--shred", help="When the version with the rows goes, and what was derived from it."),
    ] = "later",
    take_down: shredding.TakeDown = False,
    yes: shredding.Yes = None,
    json: JsonFlag = False,
) -> None:
    """Derive a version without the rows that mention one person; say which models were trained on them.

    Names, addresses, numbers are asked for, or read one a line from standard input; never given as arguments.
    Case, white space and Unicode form make no difference. A row counts once, however often it mentions whom.
    The old version stays until `dataset shred NAME --version N`, or goes at once with `--shred now`.
    """
    from cloister.api import ForgetConfig, ForgetRequest
    from cloister.cli.validation import validated

    texts = _identifiers(identifiers_fd)
    with connect() as client:
        dataset = client.dataset(reference)
        plan = client.shred_plan("datasets", dataset.object_id, dataset.version)
        if when == "now" and yes is None:
            shredding.show_plan(plan)
            yes = shredding.ask_name(dataset.name)
        request = validated(
            ForgetRequest,
            config=validated(ForgetConfig, identifiers=texts, whole_words=whole_words),
            shred=when,
            confirm=yes,
            take_down=take_down,
        )
        job = watch(client, client.forget(dataset.object_id, request).job_id, quiet=json)
        result = job.result
        done = client.finished_shred(result["shred_id"]) if "shred_id" in result else None
    trained = list(plan.runs.values())
    models = [item.name for item in plan.items if item.kind == "model"]
    if json:
        print_json({**result, "trained": trained, "merged": models, "shred": done})
        return
    say(
        f"{visible(dataset.name)} version {result['version']}: {result['rows']} rows; {result['rows_forgotten']} rows "
        f"were left out ({result['train_rows_forgotten']} to train on, {result['holdout_rows_forgotten']} held out), "
        f"which mention {result['identifiers_found']} of {result['identifiers']} identifiers."
    )
    say(f"Trained on version {dataset.version}: {visible(', '.join([*trained, *models])) or 'nothing'}.")
    if done is not None:
        shredding.say_done(done)
    else:
        say(
            f"Version {dataset.version} is still there. When its successors have replaced it: "
            f"`cloister dataset shred {dataset.name} --version {dataset.version}`."
        )


def _identifiers(descriptor: int | None) -> tuple[str, ...]:
    """One a line, from a descriptor, or asked for at the terminal until an empty line."""
    from cloister.errors import InvalidInput

    if descriptor is None and not sys.stdin.isatty():
        descriptor = 0
    lines: list[str] = []
    if descriptor is None:
        import getpass

        while line := getpass.getpass(f"Identifier {len(lines) + 1} (not shown; empty: no more): ").strip():
            lines.append(line)
    else:
        try:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                lines = [line.strip() for line in file.read(1 << 20).decode().splitlines()]
        except (OSError, UnicodeDecodeError):
            raise InvalidInput("no text can be read from that descriptor", where="--identifiers-fd") from None
    found = tuple(line for line in lines if line)
    if not found:
        raise InvalidInput("no identifier was given", remedy="Give one a line: name, address, number.")
    return found
