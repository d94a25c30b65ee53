"""The command that opens the console, and what plain `cloister` does on a terminal."""

from __future__ import annotations

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
    from cloister.cli.opening import open_console

    open_console(plain=plain)
