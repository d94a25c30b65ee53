"""Durable files: written whole under a temporary name, synced, renamed, their folder synced.

Knows nothing of what the files hold. Every call raises OSError as the system gave it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cloister import modes


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, touched: set[Path]) -> None:
    """Create a folder and its parents, as open as `modes` says; folders that gained a name go to `touched`."""
    if folder.is_dir():
        return
    make_folder(folder.parent, touched)
    modes.make_folder(folder)
    touched.add(folder.parent)


def write_file(path: Path, data: bytes, touched: set[Path]) -> None:
    """Write and sync a whole file, atomically; `touched` gains its folder, which the caller has to sync."""
    make_folder(path.parent, touched)
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # another account may have put a link there
    descriptor = modes.create(temporary, os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW)
    try:
        write_all(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    touched.add(path.parent)


def sync_folders(folders: Iterable[Path]) -> None:
    for folder in folders:
        sync_folder(folder)


def allocate(path: Path, size: int, *, zeroed: bool = False) -> int:
    """A new file of that size with its space reserved; returns its descriptor, open for writing.

    With `zeroed` the zeros are really written, so that no later write into it needs new blocks.
    """
    descriptor = modes.create(path, os.O_RDWR | os.O_TRUNC)
    try:
        os.posix_fallocate(descriptor, 0, size)
        if zeroed:
            write_all(descriptor, bytes(size), 0)
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def remove_folder(folder: Path) -> None:
    """Remove a folder of plain files, where it is there."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
