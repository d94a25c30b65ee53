"""The command that opens the console, and what plain `cloister` does on a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def add_commands(app: typer.Typer) -> None:
    """Hang the command into the root."""
    app.command()(console)


def console(
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Plain lines for screen readers: what is, then each change as it comes."
        ),
    ] = False,
) -> None:
    """Open the console: the whole appliance on one screen, by keys alone. `?` in it explains each screen."""
    open_console(plain=plain)


def open_console(*, plain: bool = False) -> None:
    """Run the console until it is left. Errors: InvalidInput where there is no terminal."""
    from cloister.cli.session import connect
    from cloister.errors import InvalidInput

    if plain:
        from cloister.console.plain import tell

        tell(connect, sys.stdout)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput(
            "the console needs a terminal", remedy="`cloister console --plain` prints plain lines anywhere."
        )
    from cloister.console.app import ConsoleApp

    ConsoleApp(connect).run(mouse=False)
