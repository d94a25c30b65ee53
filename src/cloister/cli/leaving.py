"""Ctrl-C: a command that is left ends with 130 and one line, of what goes on without it and how to pick it up.

It knows no command; each says for itself what goes on. Libraries may turn the interrupt into an error of
their own (pydantic does, where it builds a schema), so that it was pressed is noted when it happens.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cloister.errors import CloisterError

NOTHING_LOST = "what was asked for before goes on."
SEE_STATUS = "See `cloister status`."
_AGAIN_S = 0.02


class Left(CloisterError):
    """The operator has left a command; nothing failed."""

    code, exit_code, status = "left", 130, 500


_pressed = False


def attend_ctrl_c() -> None:
    """From now on ctrl-c is noted before it interrupts. Only in the main thread."""
    signal.signal(signal.SIGINT, _note)
    signal.signal(signal.SIGALRM, _note)
    sys.unraisablehook = _swallowed


def ignore_ctrl_c() -> None:
    """From now on it adds nothing: all is done, or being told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _note(number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed = True
    raise KeyboardInterrupt


def _swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    """Where nothing can be raised, as in a callback of the garbage collector, an interrupt is lost: it comes again."""
    if unraisable.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)


@contextmanager
def leaving(goes_on: str = NOTHING_LOST, remedy: str = SEE_STATUS) -> Iterator[None]:
    """Within it ctrl-c ends in `Left`, with these words; the innermost one speaks."""
    try:
        yield
    except Left:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if _pressed or isinstance(error, KeyboardInterrupt):
            raise Left(goes_on, remedy=remedy) from None
        raise
