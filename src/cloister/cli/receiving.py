"""Content on its way to a person: through a pipe into this process, and into a file if that is wanted."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cloister.errors import Conflict, OutOfSpace

Result = TypeVar("Result")


def received(ask: Callable[[int], Result]) -> tuple[bytes, Result]:
    """What is written to the descriptor that `ask` is called with, and what `ask` returns."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pieces: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 1 << 16):
            pieces.append(piece)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        result = ask(writing)
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)
    return b"".join(pieces), result


def require_new(path: Path) -> None:
    """See that nothing lies there, before it is entered that content was read. Errors: Conflict."""
    if os.path.lexists(path):
        raise Conflict("there is a file already", where=str(path), remedy="Name a new one.")


def write_new(path: Path, content: bytes) -> None:
    """A file of that content, 0600. Errors: Conflict where there is one; OutOfSpace, and then there is none."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise Conflict("there is a file already", where=str(path), remedy="Name a new one.") from None
    fill_new(descriptor, path, content)


def fill_new(descriptor: int, path: Path, content: bytes) -> None:
    """Write a file that this process has made, whole, and close it. Where that fails it is gone again, so that what was
    asked for can be asked for once more. Errors: OutOfSpace, OSError."""
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfSpace(
                "there is no room for this file", where=str(path), remedy="Make room, or name another place."
            ) from None
        raise
