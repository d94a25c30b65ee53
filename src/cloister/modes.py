"""How open a new file or folder is: its owner's alone, or also its group's, as the folder around it says.

Where authority, launcher and gateway run under accounts of their own, the few folders that two of them share carry the
setgid bit: what is made in them goes to the folder's group. Everywhere else nobody but the owner gets in.
It knows nothing of what lies there.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
SHARED_FILE, SHARED_FOLDER = 0o640, 0o770
WRITABLE_FILE = 0o660


def is_shared(folder: Path) -> bool:
    """Whether a folder lets its group in and hands it on to what is made in it. Raises OSError."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_ISGID and mode & stat.S_IXGRP)


def set_umask(folder: Path) -> None:
    """The umask of a process that makes files in `folder`: its group gets what `modes` gives, others nothing.

    The mode is then right from the first moment; a service that may not set setgid bits need not.
    """
    os.umask(0o007 if folder.is_dir() and is_shared(folder) else 0o077)


def make_folder(folder: Path) -> None:
    """Make one folder; one that is there already stays as it is. Raises OSError."""
    shared = is_shared(folder.parent)
    try:
        folder.mkdir(mode=SHARED_FOLDER if shared else PRIVATE_FOLDER)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return
    if shared:
        _set(folder, SHARED_FOLDER | stat.S_ISGID)


def create(path: Path, flags: int, *, writable: bool = False) -> int:
    """A descriptor of a file that is made where it is missing (`O_CREAT` is added). Raises OSError.

    In a shared folder the group may read it, and with `writable` write to it as well.
    """
    mode = PRIVATE_FILE
    if is_shared(path.parent):
        mode = WRITABLE_FILE if writable else SHARED_FILE
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        if mode != PRIVATE_FILE:
            _set(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def close_to_others(path: Path) -> None:
    """Take from a file or folder of ours every right that its surroundings do not share. Raises OSError.

    What is another account's lies in a folder that is shared with it and closed to all others. No link is followed.
    """
    if path.lstat().st_uid != os.geteuid():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            _set(descriptor, SHARED_FOLDER | stat.S_ISGID if is_shared(path) else PRIVATE_FOLDER)
        else:
            _set(descriptor, SHARED_FILE if is_shared(path.parent) else PRIVATE_FILE)
    finally:
        os.close(descriptor)


def read_foreign(path: Path, limit: int) -> bytes:
    """A whole file that another account may have put there: no link is followed, nothing is waited for.

    Raises OSError; also where it is no regular file, or longer than `limit` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(
            os.fstat(descriptor).st_mode
        ):  # of a folder Python makes no file, and closes nothing
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, "longer than it can be", str(path))
    return data


def _set(what: Path | int, mode: int) -> None:
    status = os.stat(what)  # noqa: PTH116 - a path or a descriptor
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        os.chmod(what, mode)  # noqa: PTH101
