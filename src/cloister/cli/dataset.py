"""Commands on datasets."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal, get_args

import typer

from cloister.cli import dataset_view, learning, rendering, shredding
from cloister.cli.importing import ClassName, import_
from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, size, visible
from cloister.cli.run_shown import named
from cloister.cli.session import connect, watch

app = typer.Typer(no_args_is_help=True)
dataset_view.add_commands(app)
app.command()(rendering.render)
app.command()(learning.curve)


app.command("import")(import_)


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
def show(
    reference: Annotated[str, typer.Argument(metavar="NAME")],
    rows: Annotated[int | None, typer.Option(min=1, max=100, help="Reveal the first so many rows.")] = None,
    row: Annotated[
        list[int] | None, typer.Option("--row", min=0, help="Reveal this row. Repeatable.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Reveal the names of the labels.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show what is known of a dataset. No row is read, unless you ask for some.

    That you see rows is entered first, with your account and their numbers. They come from a sandbox to this command
    alone; control characters and changes of the writing direction are shown as escapes.
    """
    if rows is not None or row or labels:
        numbers = (
            *dict.fromkeys((*(dataset_view.first_rows(reference, rows) if rows else ()), *(row or ()))),
        )
        dataset_view.show_rows(reference, numbers, labels=labels, json=json)
        return
    with connect() as client:
        stored = client.dataset(reference)
        parents = [named(client.dataset, parent) for parent in stored.inputs] if not json else []
    if json:
        print_json(stored)
        return
    facts = {
        "name": stored.name,
        "id": stored.object_id,
        "class": stored.classification,
        "made": f"{moment(stored.created_at)} by {stored.created_by}",
        **({"made of": ", ".join(parents)} if parents else {}),
        "size": size(stored.sealed_bytes),
        "manifest": stored.manifest_sha256,
        **stored.counts,
        **{
            key: ", ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in stored.details.items()
            if value != [] and not key.startswith("personal")
        },
    }
    if personal := stored.details.get("personal"):
        became = stored.details.get("personal_became")
        facts["personal data"] = _by_type(personal.get("found", personal)) + (f"; {became}" if became else "")
    print_table(("", ""), facts.items(), empty="")


def _by_type(found: dict[str, dict[str, int]]) -> str:
    """How much personal data was found, by type."""
    return ", ".join(f"{type} {sum(fields.values())}" for type, fields in found.items()) or "none was found"


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
    derived = [
        item.name for item in plan.items if item.kind == "dataset" and item.object_id != dataset.object_id
    ]
    if json:
        print_json({**result, "trained": trained, "merged": models, "derived": derived, "shred": done})
        return
    say(
        f"{visible(dataset.name)} version {result['version']}: {result['rows']} rows; {result['rows_forgotten']} rows "
        f"were left out ({result['train_rows_forgotten']} to train on, {result['holdout_rows_forgotten']} held out), "
        f"which mention {result['identifiers_found']} of {result['identifiers']} identifiers."
    )
    say(f"Trained on version {dataset.version}: {visible(', '.join([*trained, *models])) or 'nothing'}.")
    if derived and done is None:
        say(f"Derived from it, and to be forgotten in as well: {visible(', '.join(derived))}.")
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
