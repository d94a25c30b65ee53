"""How the programs log: one JSON line an event on standard error, and never a library's or an exception's text.

An exception's message may quote what it failed on, and its frames hold keys and rows: only its type and its place
are told. A log that cannot be written stops nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback

import structlog

from cloister.streams import write_whole


class _Lines:
    """Standard error, where a full disk is no reason to fail."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    log = debug = info = warning = error = critical = fatal = failure = exception = msg


def configure_logs() -> None:
    """Set this process's logs up. Once, at its start."""
    write_whole()
    logging.disable(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: _Lines(),
    )


def place(error: BaseException) -> str:
    """`Type in module:line`, of the innermost frame that is ours, else of the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/cloister/" in frame.filename] or frames
    if not ours:
        return type(error).__name__
    return f"{type(error).__name__} in {ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].lineno}"
