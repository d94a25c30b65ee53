"""Commands on the ledger: what an auditor asks of it while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli import audit_copies, audit_query
from cloister.cli.output import JsonFlag, print_json, print_table
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import LedgerEntry

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(
    start: Annotated[
        int | None, typer.Option(min=0, help="First entry; the newest ones unless given.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    json: JsonFlag = False,
) -> None:
    """Show entries of the control ledger."""
    with connect() as client:
        first = max(0, client.ledger().entries - limit) if start is None else start
        entries = client.entries(first, limit)
    if json:
        print_json(entries)
        return
    print_table(
        ("#", "time", "actor", "action", "decision", "objects"),
        [
            (e.index, e.time[5:19].replace("T", " "), e.actor, e.action, _decided(e), " ".join(e.objects))
            for e in entries
        ],
        empty="No entry there.",
    )


def _decided(entry: LedgerEntry) -> str:
    return entry.decision or (entry.reason or "")[:24]


@app.command()
def key(json: JsonFlag = False) -> None:
    """Print the verifier key of the control ledger, for whoever audits it."""
    with connect() as client:
        vkey = client.ledger_key()
    print_json({"vkey": vkey}) if json else print(vkey)


audit_copies.add_commands(app)
audit_query.add_commands(app)
