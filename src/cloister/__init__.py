"""Cloister: fine-tunes and serves language models on data that may never leave the building."""

import os
import sys

__version__ = "0.1.0"

_ROOM = 16 << 20


def _spare_a_full_disk() -> None:
    """Keep no bytecode where there is hardly room: what a full disk cuts short, Python 3.11 leaves there, and fails on
    it at every start from then on (https://github.com/python/cpython/issues/126606)."""
    disk = os.statvfs(__path__[0])
    if disk.f_bavail * disk.f_frsize < _ROOM:
        sys.dont_write_bytecode = True


_spare_a_full_disk()
