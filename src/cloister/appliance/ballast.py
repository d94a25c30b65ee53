"""Disk space kept back for what must always work: revoking, stopping, cancelling and locking.

A file that holds nothing is allocated ahead and given up when the disk is full, so that the state can
still be written. It is allocated again once there is room. It does not know what the room is for.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cloister.errors import OutOfSpace

SIZE = 32 << 20
LOW = 8 << 20


class Ballast:
    """`size` bytes kept back at `path`, given up where fewer than `low` bytes are free."""

    def __init__(self, path: Path, *, size: int = SIZE, low: int = LOW) -> None:
        self._path = path
        self._size = size
        self._low = low
        self._restore()

    def make_room(self) -> None:
        """Give the space up where the disk is nearly full."""
        if self._free() < self._low:
            self._path.unlink(missing_ok=True)

    def require(self) -> None:
        """Before anything new: the space is there, or can be taken again. Errors: OutOfSpace."""
        if not self._path.exists() and not self._restore():
            raise OutOfSpace(
                "the disk is nearly full, so nothing new starts",
                where=str(self._path.parent),
                remedy=f"Make room: at least {(self._size + self._low) >> 20} MiB.",
            )

    def _free(self) -> int:
        return shutil.disk_usage(self._path.parent).free

    def _restore(self) -> bool:
        if self._path.exists():
            return True
        if self._free() < self._size + self._low:
            return False
        descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)
        return True
