"""Ctrl-C: a command that is left ends with 130 and one line, of what goes on without it and how to pick it up.

It knows no command; each says for itself what goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cloister.errors import CloisterError

NOTHING_LOST = "what was asked for before goes on."
SEE_STATUS = "See `cloister status`."


class Left(CloisterError):
    """The operator has left a command; nothing failed."""

    code, exit_code, status = "left", 130, 500


@contextmanager
def leaving(goes_on: str = NOTHING_LOST, remedy: str = SEE_STATUS) -> Iterator[None]:
    """Within it ctrl-c ends in `Left`, with these words; the innermost one speaks."""
    try:
        yield
    except KeyboardInterrupt:
        raise Left(goes_on, remedy=remedy) from None
