"""Commands that look into datasets, and make new ones of them. Numbers come over the socket, rows through a pipe."""

from __future__ import annotations

import json as json_module
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from cloister.cli.output import JsonFlag, print_json, print_table, say, visible
from cloister.cli.receiving import received
from cloister.cli.session import connect, watch
from cloister.cli.validation import validated
from cloister.errors import InvalidInput
from cloister.sources import open_source

if TYPE_CHECKING:
    from cloister.api import DatasetReport, LengthFigures, PersonalFigures, RowRange

Reference = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name or id.")]
Template = Literal["auto", "model", "llama3", "qwen3", "chatml"]
LossOn = Literal["assistant", "last", "all"]
Every = Annotated[int, typer.Option("--every", min=1, help="Look for personal data in every N-th row only.")]
BAR = 40


def add_commands(app: typer.Typer) -> None:
    """Register the commands with the noun `dataset`."""
    app.command()(report)
    app.command()(scan)
    app.command()(derive)


def report(
    reference: Reference,
    base: Annotated[
        str | None, typer.Option(help="A base model: its tokenizer counts, its template renders.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            "--max-tokens",
            min=8,
            help="Count the rows that are longer, in tokens. Needs --base.",
        ),
    ] = None,
    template: Annotated[
        Template | None, typer.Option(help="The chat template of a run to come. Needs --base.")
    ] = None,
    loss_on: Annotated[
        LossOn | None, typer.Option(help="What a run to come learns on. Needs --base.")
    ] = None,
    personal: Annotated[
        bool, typer.Option("--personal", help="Look for personal data too, which takes longer.")
    ] = False,
    every: Every = 1,
    last: Annotated[bool, typer.Option("--last", help="Show the last report; look at nothing.")] = False,
    json: JsonFlag = False,
) -> None:
    """Look at a dataset before training: lengths, balance, duplicates, conflicts, leakage, rows that a run refuses.

    A worker reads every row in its sandbox, and only numbers leave it. Rows are named by their number, labels by their
    place: `dataset show NAME --row N` and `--labels` show them to whoever may see rows. Of very long datasets repeats
    are counted in a sample, and the report says in which.
    """
    from cloister.api import DatasetReport, ReportConfig, ReportRequest

    asked = {"--max-length": max_length, "--template": template, "--loss-on": loss_on}
    if last and (base or personal or every != 1 or any(value is not None for value in asked.values())):
        raise InvalidInput(
            "the last report is shown as it was made", where="--last", remedy="Give no other option with it."
        )
    if base is None and (given := [option for option, value in asked.items() if value is not None]):
        raise InvalidInput("tokens need a tokenizer", where=given[0], remedy="Name a base model with --base.")
    with connect() as client:
        if last:
            found = client.last_report(reference)
        else:
            config = validated(
                ReportConfig,
                personal=personal,
                personal_every=every,
                max_length=max_length,
                template=template or "auto",
                loss_on=loss_on or "assistant",
            )
            job = client.report(reference, ReportRequest(config=config, base=base))
            found = DatasetReport.model_validate(watch(client, job.job_id, quiet=json).result)
    print_json(found) if json else _print_report(found)


def scan(reference: Reference, every: Every = 1, json: JsonFlag = False) -> None:
    """Look for personal data: names, addresses, e-mail, phone, IBAN, cards, national ids, births, record numbers.

    Counts by type and by where it stands; never the text. It is detection, and no guarantee: the handbook says how
    much of made-up data it finds. What was found (in every row) is what policies ask for before training.
    """
    from cloister.api import DatasetReport, ReportConfig, ReportRequest

    config = validated(ReportConfig, quality=False, personal=True, personal_every=every)
    with connect() as client:
        job = client.report(reference, ReportRequest(config=config))
        found = DatasetReport.model_validate(watch(client, job.job_id, quiet=json).result)
    assert found.personal is not None
    print_json(found.personal) if json else _print_personal(found.personal, found.rows)


def derive(
    reference: Reference,
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the new dataset.")],
    merge: Annotated[
        list[str] | None, typer.Option("--merge", help="Another dataset to add. Repeatable.")
    ] = None,
    side: Annotated[Literal["all", "train", "holdout"], typer.Option(help="Only rows of this side.")] = "all",
    rows: Annotated[
        str | None, typer.Option(help="Only these rows, by number from 0: 0-99,200. Of the first dataset.")
    ] = None,
    without: Annotated[str | None, typer.Option(help="Leave these rows out, as in --rows.")] = None,
    min_characters: Annotated[int, typer.Option(min=0, help="Only rows with at least so many.")] = 0,
    max_characters: Annotated[int | None, typer.Option(min=1, help="Only rows with at most so many.")] = None,
    where_fd: Annotated[
        int | None,
        typer.Option(
            "--where-fd",
            metavar="N",
            help='Read from this descriptor what rows are chosen by: {"labels": […], "groups": {"site": […]}, '
            '"matching": ["regex"], "not_matching": […]}.',
        ),
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(help='JSON lines: {"row": 7, "label": …}, or "answer", "messages", "leave_out": true.'),
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="A placeholder such as [EMAIL] for personal data.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", "--pseudonymise", help="Consistent made-up values for personal data."),
    ] = False,
    types: Annotated[list[str] | None, typer.Option("--type", help="Only this type. Repeatable.")] = None,
    dedupe: Annotated[
        Literal["exact", "near"] | None, typer.Option(help="Leave out what an earlier row says already.")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Draw so many of the rows.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which rows are drawn.")] = 0,
    classification: Annotated[
        Literal["public", "internal", "confidential", "restricted"] | None,
        typer.Option("--class", help="Stricter than its parents, if wished; never milder."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Make a new dataset of rows chosen, merged, corrected, rid of repeats or of personal data, in a sandbox.

    First rows are chosen, then repeats left out, then some drawn, corrected, and personal data exchanged. It comes of
    its parents: shredding one takes it along, and it is kept as strictly. Rows of one dataset keep their side; those of
    several are split anew. Labels and patterns are content: they come through a descriptor, never as arguments.
    """
    from cloister.api import Chosen, DeriveConfig, DeriveRequest, PersonalType

    if redact and replace:
        raise InvalidInput("either --redact or --replace")
    unknown = set(types or ()) - set(get_args(PersonalType))
    if unknown or (types and not (redact or replace)):
        raise InvalidInput(
            "not a type of personal data, or nothing to do with it",
            where="--type",
            remedy=f"One of {', '.join(get_args(PersonalType))}, with --redact or --replace.",
        )
    config = validated(
        DeriveConfig,
        side=side,
        rows=_ranges(rows, "--rows"),
        without=_ranges(without, "--without"),
        min_characters=min_characters,
        max_characters=max_characters,
        corrections=corrections is not None,
        personal="redact" if redact else "replace" if replace else None,
        types=tuple(types or ()),
        dedupe=dedupe,
        sample=sample,
        seed=seed,
        chosen=validated(Chosen, **_read_where(where_fd)),
    )
    request = validated(
        DeriveRequest, name=name, config=config, others=tuple(merge or ()), classification=classification
    )
    descriptors = {}
    if corrections is not None:
        descriptors["corrections"] = open_source(corrections, "Name the file with the corrections.")
    with connect() as client:
        try:
            job = client.derive(reference, request, descriptors)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        done = watch(client, job.job_id, quiet=json)
        stored = client.dataset(done.subject or name)
    if json:
        print_json(stored)
        return
    counts = stored.counts
    if sample is not None and counts.get("rows", 0) < sample:
        say(
            f"! {sample:,} rows were asked for, and {counts.get('rows', 0):,} were there to draw from: all are in it."
        )
    said = [
        f"{counts[field]} {words.replace('were', 'was') if counts[field] == 1 else words}"
        for field, words in (
            ("not_chosen", "were not chosen"),
            ("repeats", "said what an earlier one says"),
            ("not_drawn", "were not drawn"),
            ("corrected", "were corrected"),
            ("left_out", "were left out by a correction"),
            ("rows_rewritten", "had personal data exchanged"),
        )
        if counts.get(field)
    ]
    say(
        f"{visible(stored.name)} ({stored.object_id}): {counts['rows']} of {counts['rows_read']} rows"
        + (f"; {', '.join(said)}" if said else "")
        + f"; {stored.classification}."
    )


def show_rows(reference: str, numbers: tuple[int, ...], *, labels: bool, json: bool) -> None:
    """Reveal rows, or the names of the labels, to this terminal. That you asked is entered first."""
    from cloister.api import RowsConfig

    request = validated(RowsConfig, rows=numbers, labels=labels)
    with connect() as client:
        content, _ = received(lambda output: client.show_rows(reference, request, output))
    lines = [json_module.loads(line) for line in content.splitlines()]
    if json:
        print_json(lines)
        return
    for line in lines:
        if "number" in line:
            print(visible(f"label {line['number']}: {line['label']} ({line['rows']} rows)"))
        else:
            _print_row(line)


def first_rows(reference: str, count: int) -> tuple[int, ...]:
    """The numbers of the first rows, as many as there are."""
    with connect() as client:
        return tuple(range(min(count, client.dataset(reference).counts.get("rows", count))))


def _print_row(line: dict[str, Any]) -> None:
    marks = [f"row {line['row']}", line["side"]]
    if line.get("label") is not None:
        marks.append(f"label: {line['label']}")
    marks += [f"{name}: {value}" for name, value in line.get("groups", {}).items()]
    print(visible("── " + " · ".join(marks)))
    if line.get("text") is not None:
        print(visible(line["text"], lines=True))
    if line.get("tools") is not None:
        print(visible(f"[tools] {line['tools']}"))
    for message in line.get("messages", []):
        print(f"[{visible(message['role'])}] {visible(message['content'], lines=True)}")
        for call in message.get("tool_calls", []):
            print(visible(f"  → {call['name']}({call['arguments']})"))


def _ranges(text: str | None, where: str) -> tuple[RowRange, ...]:
    """`0-99,200` as pairs of the first and the last."""
    found: list[RowRange] = []
    for part in text.split(",") if text is not None else []:
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part.strip())
        if match is None:
            raise InvalidInput("rows are given as 0-99,200", where=where)
        found.append((int(match[1]), int(match[2] or match[1])))
    return tuple(found)


def _read_where(descriptor: int | None) -> dict[str, Any]:
    if descriptor is None:
        return {}
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            found = json_module.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError):
        raise InvalidInput("no JSON of at most 1 MiB can be read there", where="--where-fd") from None
    if not isinstance(found, dict):
        raise InvalidInput("a JSON object is expected", where="--where-fd")
    return found


def _print_report(found: DatasetReport) -> None:
    print(
        f"{found.rows} rows, {found.train_rows} to train on, {found.holdout_rows} held out; {visible(found.task)}."
    )
    if found.turns:
        print("Turns: " + ", ".join(f"{_turns(n)} in {rows} rows" for n, rows in found.turns.items()) + ".")
    for what, figures in (("characters", found.characters), ("tokens", found.tokens)):
        if figures is not None:
            _print_lengths(what, figures)
    if found.tokens is not None:
        print(f"{found.supervised_tokens} of the tokens are learnt: the loss is taken on them.")
    elif found.characters is not None:
        print("With `--base BASE` tokens are counted, and the rows that a run would refuse.")
    if found.labels is not None:
        print(f"{found.labels.distinct} labels, the most frequent first:")
        for number, rows in enumerate(found.labels.rows[:20], 1):
            print(f"  label {number:<4} {rows:>9} {_bar(rows, found.labels.rows[0])}")
        if found.labels.distinct > 20:
            print(f"  and {found.labels.distinct - 20} more, the last with {found.labels.rows[-1]} rows")
    facts: list[tuple[str, object]] = []
    if found.repeats is not None:
        repeats = found.repeats
        facts += [
            ("equal to an earlier row", repeats.duplicates),
            (
                "inputs with different answers",
                f"{repeats.conflicting_inputs} in {repeats.conflicting_rows} rows",
            ),
            ("held out, and trained on", repeats.leaked),
        ]
    if found.near is not None:
        facts += [
            ("nearly an earlier row", f"{found.near.similar}{_named(found.near.first)}"),
            ("held out, and nearly trained on", found.near.leaked),
        ]
    if found.repeats is not None:
        facts.append(("empty answers", f"{found.empty_answers}{_named(found.first_empty)}"))
    facts += [
        (f"refused: {rule}", f"{count}{_named(found.first_lost.get(rule, []))}")
        for rule, count in found.lost.items()
    ]
    print_table(("", "rows"), facts, empty="")
    if found.repeats is not None and found.repeats.one_in > 1:
        print(f"Equal rows and inputs are estimates: one content in {found.repeats.one_in} was followed.")
    if found.near is not None and found.near.compared < found.rows:
        print(f"Near ones were looked for among {found.near.compared} of {found.rows} rows; there are more.")
    if found.personal is not None:
        _print_personal(found.personal, found.rows)


def _print_personal(found: PersonalFigures, rows: int) -> None:
    looked = "" if found.looked_at == rows else f" (of {rows}, a sample)"
    print(f"Personal data in {found.rows} of {found.looked_at} rows{looked}. Detection, no guarantee.")
    print_table(
        ("type", "found", "where"),
        [
            (type, sum(fields.values()), ", ".join(f"{field} {count}" for field, count in fields.items()))
            for type, fields in found.found.items()
        ],
        empty="None was found.",
    )
    if found.found:
        print(
            "`cloister dataset derive NAME -n OTHER` with --redact or --replace makes one without what was found."
        )


def _print_lengths(what: str, figures: LengthFigures) -> None:
    print(
        f"{figures.total} {what}; a row has {figures.shortest} to {figures.longest}, half of them at most "
        f"{figures.median}, 95% {figures.p95}, 99% {figures.p99}."
    )
    most = max(rows for _, rows in figures.histogram)
    for upper, rows in figures.histogram:
        print(f"  up to {upper:>7} {rows:>9} {_bar(rows, most)}")


def _bar(count: int, most: int) -> str:
    """A bar in eighths of a character."""
    eighths = round(8 * BAR * count / most) if most else 0
    return "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")


def _turns(number: int) -> str:
    return "20 and more" if number >= 20 else str(number)


def _named(numbers: list[int]) -> str:
    return f" (row {', '.join(map(str, numbers))}{' …' if len(numbers) == 10 else ''})" if numbers else ""
