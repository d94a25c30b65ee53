"""Commands on alerts: list them, acknowledge one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from cloister.cli.output import JsonFlag, print_json, say, visible
from cloister.cli.session import connect

app = typer.Typer(invoke_without_command=True)


@app.callback(invoke_without_command=True)
def listing(context: typer.Context, json: JsonFlag = False) -> None:
    """What somebody has to look at: the cause, who is affected, the next safe command."""
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        found = client.alerts()
    if json:
        print_json(found)
        return
    if not found:
        say("No alert.")
    for alert in found:
        seen = f", seen by {alert.acknowledged_by}" if alert.acknowledged_by else ""
        print(visible(f"{alert.severity.upper()}  {alert.key}  since {_clock(alert.raised_at)}{seen}"))
        print(visible(f"  cause    {alert.cause}"))
        print(visible(f"  affects  {alert.affects}"))
        print(visible(f"  next     {alert.command}"))


@app.command("ack")
def acknowledge(
    key: Annotated[str, typer.Argument(help="The alert's key, as `cloister alerts` shows it.")],
    json: JsonFlag = False,
) -> None:
    """Say that you have seen an alert. It stays until its cause is gone; the ledger keeps your name."""
    with connect() as client:
        alert = client.acknowledge(key)
    print_json(alert) if json else say(f"{alert.key} is acknowledged by {alert.acknowledged_by}.")


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone():%a %Y-%m-%d %H:%M}"
