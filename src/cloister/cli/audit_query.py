"""Commands that ask the ledgers: the newest entries, live, those that fit a question, and kept bodies."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloister.cli.moments import moment
from cloister.cli.output import JsonFlag, print_json, print_table, say, visible
from cloister.cli.receiving import received, require_new, write_new
from cloister.cli.session import connect
from cloister.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from cloister.api import LedgerEntry


Ledger = Annotated[
    Literal["control", "gateway"],
    typer.Option(help="control: what people and jobs did; gateway: requests to the models."),
]
Actor = Annotated[
    str | None, typer.Option(help="Who: an account, a client's id; a * at the end stands for any rest.")
]
Action = Annotated[str | None, typer.Option(help="What was done, such as vault.unlock or 'job.*'.")]
Object = Annotated[
    str | None, typer.Option("--object", help="Id of a dataset, run, job, deployment … it was done to.")
]


def add_commands(app: typer.Typer) -> None:
    """Register the commands with the noun `audit`."""
    app.command()(tail)
    app.command()(search)
    app.command()(reveal)
    app.command("shred-bodies")(shred_bodies)


def tail(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and print entries as they are made; Ctrl-C ends it.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=1000, help="How many of the newest.")
    ] = 20,
    ledger: Ledger = "control",
    actor: Actor = None,
    action: Action = None,
    object_: Object = None,
    json: JsonFlag = False,
) -> None:
    """Print the newest entries, one a line. With -f it goes on as they are made.

    With --json each line is one entry.
    """
    wanted = {"ledger": ledger, "actor": actor, "action": action, "object": object_}
    with connect() as client:
        found = client.search_ledger(max(lines, 1), **wanted)
        after = found.size
        for entry in found.entries if lines else []:
            _print_line(entry, json)
        try:
            while follow:
                try:
                    for entry in client.follow_ledger(after, **wanted):
                        _print_line(entry, json)
                        after = entry.index + 1
                except Unavailable:
                    say("The authority is away; waiting for it. Ctrl-C ends this.")
                    _wait_for(client)
        except KeyboardInterrupt:
            raise SystemExit(0) from None  # what ends it is not an error


def search(
    actor: Actor = None,
    action: Action = None,
    object_: Object = None,
    since: Annotated[
        str | None,
        typer.Option(help="From then on: 2h, 3d, 18:00, 2026-11-21 or 2026-11-21T14:30 (local time)."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before then; the same forms.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest.")] = 50,
    before: Annotated[
        int | None, typer.Option(min=0, help="Only entries below this number: how to page backwards.")
    ] = None,
    ledger: Ledger = "control",
    scan: Annotated[
        bool,
        typer.Option("--scan", help="Read every entry instead of asking the index. Slower; trusts nothing."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Find entries by who, what, to what and when. All conditions must hold.

    The newest matches are shown, in the ledger's order. Each was read from the ledger and checked against
    its tree: the index only tells where to look.
    """
    now = datetime.now(UTC)
    with connect() as client:
        found = client.search_ledger(
            limit,
            ledger=ledger,
            actor=actor,
            action=action,
            object=object_,
            since=moment(since, "--since", now),
            until=moment(until, "--until", now),
            before=before,
            index=not scan,
        )
    if json:
        print_json(found)
        return
    print_table(
        ("#", "time (UTC)", "actor", "action", "outcome", "objects"),
        [_row(entry) for entry in found.entries],
        empty=f"No entry of {found.size} matches.",
    )
    if found.more:
        say(f"Older ones match too: add `--before {found.entries[0].index}`, or a larger --limit.")


def reveal(
    index: Annotated[int, typer.Argument(min=0, help="Number of the entry, as `audit search` shows it.")],
    ledger: Ledger = "gateway",
    to: Annotated[
        Path | None, typer.Option(help="A new file for the content, 0600; else it goes to standard output.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Open the prompt or the answer that an entry commits to, where bodies are kept.

    That you asked is entered first, with your account. The content comes to this command alone, checked
    against the entry's commitment. On a terminal, control characters are shown as escapes.
    """
    if json and to is None:
        raise InvalidInput(
            "JSON and content cannot share standard output", where="--json", remedy="Add --to FILE."
        )
    if to is not None:
        require_new(to)
    with connect() as client:
        body, result = received(lambda output: client.reveal(ledger, index, output))
    if to is not None:
        write_new(to, body)
    elif sys.stdout.isatty():
        for line in body.decode(errors="backslashreplace").split("\n"):
            print(visible(line))
    else:
        sys.stdout.buffer.write(body)
        sys.stdout.flush()
    if json:
        print_json(result)
    else:
        say(
            f"The {result.part} of entry {index}, {result.bytes} bytes. Revealing it is entry {result.entry}."
        )


def shred_bodies(
    before: Annotated[
        str | None, typer.Option(help="All bodies kept before this day (UTC), such as 2026-11-01.")
    ] = None,
    index: Annotated[int | None, typer.Option(min=0, help="Only the body of this entry.")] = None,
    ledger: Ledger = "gateway",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonFlag = False,
) -> None:
    """Destroy kept prompts and answers for good. Their entries stay, and stay true.

    A legal hold on a dataset keeps the bodies of models that learnt from it: if one of them is of those days, nothing
    goes. Copies of `bodies/capsules.db` in a backup could still open them until that backup is gone.
    """
    from cloister.api import BodyRequest, ShredBodiesRequest
    from cloister.cli.validation import validated

    if (before is None) == (index is None):
        raise InvalidInput("name a day or an entry", remedy="Use `--before DAY` or `--index N`.")
    body = BodyRequest(ledger=ledger, index=index) if index is not None else None
    request = validated(ShredBodiesRequest, body=body, before=before)
    if not yes:
        what = f"the body of entry {index}" if index is not None else f"all bodies before {before}"
        typer.confirm(f"Destroy {what}? This cannot be undone", abort=True, err=True)
    with connect() as client:
        result = client.shred_bodies(request)
    if json:
        print_json(result)
    else:
        say(f"{result.shredded} destroyed, {result.left} left. Entry {result.entry} of the control ledger.")


def _row(entry: LedgerEntry) -> tuple[object, ...]:
    time = entry.time[:19].replace("T", " ")
    return entry.index, time, entry.actor, entry.action, _outcome(entry), " ".join(entry.objects)


def _outcome(entry: LedgerEntry) -> str:
    return " ".join(part for part in (entry.decision, (entry.reason or "")[:40]) if part)


def _print_line(entry: LedgerEntry, json: bool) -> None:
    if json:
        print(entry.model_dump_json(), flush=True)
    else:
        print(visible("  ".join(str(cell) for cell in _row(entry) if cell != "")), flush=True)


def _wait_for(client: Any) -> None:
    import time

    from cloister.errors import CloisterError

    while True:
        time.sleep(1.0)
        try:
            client.ledger()
            return
        except CloisterError:
            continue
