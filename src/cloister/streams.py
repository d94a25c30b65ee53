"""Standard output and error: what is given to them is written, or the command that gave it hears that it was not.

Of whoever closed one of them nothing is wanted there: it leads nowhere, like a closed standard input.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def write_whole() -> None:
    """Give each of the two a buffer that has none, as with PYTHONUNBUFFERED, and write every line once it is whole:
    whoever reads from a pipe may wait for it. Asked twice, it does nothing more.

    One write of a file without a buffer takes what the system took, and Python drops the rest: the end of a screen
    where a signal comes in between, as a terminal's new size does, or the end of a file where a disk is full.

    What is no terminal gets UTF-8, whatever the locale: documents are signed and read by programs to the byte. On a
    terminal, what the locale has no character for is written as its number, `\\u2026`.
    """
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if name == "stderr" or stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace", line_buffering=True)
        if not isinstance(getattr(stream, "buffer", None), io.RawIOBase):
            continue
        whole = os.fdopen(
            stream.fileno(), "w", 1, encoding=stream.encoding, errors=stream.errors, closefd=False
        )
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, f"__{name}__", whole)
        setattr(sys, name, whole)


def _open_closed() -> None:
    """Let those of 0 to 2 that came closed lead nowhere, before a file or a connection gets such a number, and with it
    what is written there. Python has None in their place, which nothing that asks for a terminal expects."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8")
            os.set_inheritable(nowhere.fileno(), True)
            setattr(sys, name, nowhere)
            setattr(sys, f"__{name}__", nowhere)


@contextmanager
def written_out() -> Iterator[None]:
    """What is done within it has ended well only when its output is written. Errors: OSError, where it cannot be."""
    try:
        yield
    except SystemExit as ended:
        if not ended.code:
            _flush()
        raise
    _flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def let_go() -> None:
    """Drop what can no longer be written, of which everything was said, so that Python's own end adds nothing to it
    and leaves the exit code alone."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # ctrl-c came first
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
