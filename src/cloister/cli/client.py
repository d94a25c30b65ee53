"""Commands on client applications."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, visible
from cloister.cli.session import connect

app = typer.Typer(no_args_is_help=True)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="What to call the client application.")],
    deployment: Annotated[
        list[str] | None,
        typer.Option("--deployment", "-d", help="A deployment it may use; all unless given."),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3660, help="How long the key is good for.")] = None,
    json: JsonFlag = False,
) -> None:
    """Issue an API key. It is shown this once; only its hash is kept."""
    from datetime import UTC, datetime, timedelta

    from cloister.api import ClientRequest
    from cloister.cli.validation import validated

    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    request = validated(ClientRequest, name=name, deployments=tuple(deployment or ()), expires_at=expires)
    with connect() as client:
        issued = client.issue_client(request)
    if json:
        print_json(issued)
    else:
        say(f"{visible(issued.client.name)} ({issued.client.client_id}). The key, shown this once:")
        print(issued.api_key)


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the clients; keys are never shown again."""
    with connect() as client:
        found = client.clients()
    if json:
        print_json(found)
        return
    print_table(
        ("name", "id", "issued", "expires", "revoked", "deployments"),
        [
            (
                c.name,
                c.client_id,
                moment(c.created_at),
                moment(c.expires_at),
                moment(c.revoked_at),
                ", ".join(c.deployments) or "all",
            )
            for c in found
        ],
        empty="No client yet. Issue a key with `cloister client issue NAME`.",
    )


@app.command()
def revoke(reference: Annotated[str, typer.Argument(metavar="NAME")], json: JsonFlag = False) -> None:
    """End a client's key at once. Works also while the ledger refuses."""
    with connect() as client:
        revoked = client.revoke_client(reference)
    print_json(revoked) if json else say(f"{visible(revoked.name)}: the key no longer works.")
