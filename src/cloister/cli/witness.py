"""`cloister witness`: the stand-alone verifier's witness, on the machine that ledgers are carried to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.cli.output import JsonFlag


def add_commands(app: typer.Typer) -> None:
    """Hang the command into the root."""
    app.command()(witness)


def witness(
    folder: Annotated[Path, typer.Argument(help="The folder that `cloister audit carry` filled.")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="VKEY",
            help="On the first visit: the log's key, as `cloister audit key` prints it.",
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where the witness keeps its key and the last tree heads.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The witness's name, when its key is made; witness/HOST.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check that the ledgers in a folder continue the tree heads seen before, and cosign them.

    It needs no appliance here, and makes its own key on first use. Exit code 7: a ledger was changed, rolled
    back or forked; nothing of it is cosigned, and both tree heads are kept as evidence.
    """
    from cloister import verifier
    from cloister.errors import InvalidInput

    arguments = ["witness", str(folder.absolute())]
    arguments += [part for one in key or () for part in ("--key", one)]
    arguments += ["--state", str(state.absolute())] if state else []
    arguments += ["--name", name] if name else []
    arguments += ["--json"] if json else []
    status = verifier.main(arguments)
    if status == 1:
        raise typer.Exit(7)
    if status:
        raise InvalidInput("nothing was witnessed", where=str(folder))
