"""Opens the console on this terminal, without the rest of the command line: the first screen is sooner there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloister.client import Client

ANSWER_S = 10.0
"""A question that the console asks is answered within so long, or the authority counts as away."""
SILENCE_S = 12.0
"""So long the event stream may be silent; the authority says something every five seconds."""


def open_console(*, plain: bool = False) -> None:
    """Run the console until it is left. Errors: InvalidInput where there is no terminal."""
    from cloister.errors import InvalidInput

    if plain:
        from cloister.cli.session import connect
        from cloister.console.plain import tell

        tell(connect, sys.stdout)
        return
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # it paints on the last
        raise InvalidInput(
            "the console needs a terminal", remedy="`cloister console --plain` prints plain lines anywhere."
        )
    from cloister.console.surroundings import prepare

    prepare()
    from cloister.console.app import ConsoleApp

    code = ConsoleApp(_connect).on_terminal()
    if code:
        sys.exit(code)


def _connect() -> Client:
    from cloister.cli.session import connect

    return connect(answer_s=ANSWER_S, silence_s=SILENCE_S)
