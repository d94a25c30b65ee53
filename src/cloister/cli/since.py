"""`cloister since`: what the next shift wants to know, out of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli.moments import moment
from cloister.cli.output import JsonFlag, print_json, print_table, say
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import LedgerEntry
    from cloister.client import Client

PAGE = 1_000
MOST = 20_000
WRONG = (".failed", ".interrupted", ".refused", ".down", ".error", "access.deny")


def add_commands(app: typer.Typer) -> None:
    """Hang the command into the root."""
    app.command()(since)


def since(
    when: Annotated[str, typer.Argument(help="From then on: 18:00, 8h, 2d, 2026-11-21T14:30 (local time).")],
    json: JsonFlag = False,
) -> None:
    """Say what happened since a time: what went wrong or was refused, then what was done and by whom.

    Everything comes from the control ledger, each entry checked against its tree.
    """
    now = datetime.now(UTC)
    start = moment(when, "WHEN", now)
    assert start is not None
    with connect() as client:
        entries, more = _entries(client, start)
    wrong = [entry for entry in entries if _went_wrong(entry)]
    done = [entry for entry in entries if not _went_wrong(entry)]
    if json:
        print_json(
            {
                "since": start,
                "entries": len(entries),
                "more": more,
                "wrong": [entry.model_dump() for entry in wrong],
                "done": [
                    {"action": action, "actor": actor, "count": count}
                    for (action, actor), count in sorted(_counts(done).items())
                ],
            }
        )
        return
    local = datetime.fromisoformat(start).astimezone()
    say(f"Since {local:%a %Y-%m-%d %H:%M}: {len(entries)} entries{', and older ones' if more else ''}.")
    if wrong:
        print_table(
            ("went wrong or was refused", "when", "who", "what", "why"),
            [
                (
                    entry.action,
                    _clock(entry),
                    entry.actor,
                    " ".join(entry.objects) or _asked(entry),
                    entry.reason or "",
                )
                for entry in wrong
            ],
            empty="",
        )
    else:
        say("Nothing went wrong, and nothing was refused.")
    last = {(entry.action, entry.actor): _clock(entry) for entry in done}
    print_table(
        ("was done", "times", "who", "last"),
        [
            (action, count, actor, last[action, actor])
            for (action, actor), count in sorted(
                _counts(done).items(), key=lambda item: (item[0][1], item[0][0])
            )
        ],
        empty="Nothing was done.",
    )


def _entries(client: Client, start: str) -> tuple[list[LedgerEntry], bool]:
    """The entries since then, oldest first, and whether there are more than can be told."""
    entries: list[LedgerEntry] = []
    before = None
    while True:
        found = client.search_ledger(PAGE, since=start, before=before)
        entries = [*found.entries, *entries]
        if not found.more or len(entries) >= MOST:
            return entries, found.more
        before = found.entries[0].index


def _went_wrong(entry: LedgerEntry) -> bool:
    return entry.decision in ("deny", "refused") or entry.action.endswith(WRONG)


def _counts(entries: Iterable[LedgerEntry]) -> Counter[tuple[str, str]]:
    return Counter((entry.action, entry.actor) for entry in entries if entry.decision != "attempt")


def _asked(entry: LedgerEntry) -> str:
    return str(entry.details.get("asked", ""))


def _clock(entry: LedgerEntry) -> str:
    return f"{datetime.fromisoformat(entry.time).astimezone():%a %H:%M:%S}"
