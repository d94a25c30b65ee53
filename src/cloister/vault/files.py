"""Files that appear whole or not at all, and descriptors that follow no link.

A `PartFile` is written under `<name>.part`, hashed on the way, synced, and renamed into place. Knows
neither keys nor formats.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cloister import modes
from cloister.errors import CloisterError, Conflict, Denied, InvalidInput, NotFound, OutOfSpace, Tampered

PART_SUFFIX = ".part"
BLOCK = 1 << 19
"""Bytes that are written and hashed at a time."""

SYNC_EVERY = 64 << 20
"""Bytes after which the disk is asked to begin, so that the last sync finds little left to do."""

_SLACK = 1 << 15
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def as_cloister_error(error: OSError, where: Path) -> CloisterError:
    """The error of ours that says what the system's says."""
    place = str(where)
    if error.errno in _FULL:
        return OutOfSpace("the disk is full", where=place, remedy="Free some space, then try again.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound("no such file", where=place)
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return Tampered("a symbolic link lies where a file belongs", where=place)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied("the system refuses access", where=place, remedy="Check owner and mode.")
    if error.errno == errno.EIO:
        return Tampered("the disk reports an input/output error", where=place, remedy="Check the disk.")
    return CloisterError(error.strerror or "the system refuses", where=place)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into one of ours that names `path`."""
    try:
        yield
    except OSError as error:
        raise as_cloister_error(error, path) from None


def open_regular(folder: Path, relative: str) -> int:
    """A descriptor for reading a regular file below `folder`, following no link on the way.

    `folder` itself is trusted. Raises NotFound, Tampered (a link, or not a regular file) or Denied.
    """
    parts = relative.split("/")
    path = folder / relative
    with naming(path):
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                above, at = at, os.open(part, flags, dir_fd=at)
                os.close(above)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(parts[-1], flags, dir_fd=at)
        finally:
            os.close(at)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Tampered("not a regular file", where=str(path))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Creates `folder` and what is missing above it, private or shared as `modes` says, durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        with naming(child):
            modes.make_folder(child)
            sync_folder(child.parent)


class PartFile:
    """A file being written. Fill `space`, tell `advance` how much; `commit` or `abort` at the end.

    Writing and hashing (SHA-256) of a block run side by side, on the caller's and on one more thread, and
    a large file is synced on the way; a file below one block needs no thread. Not for several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX)
        self.size = 0
        self._hash = hashlib.sha256()
        self._block = memoryview(bytearray(BLOCK + _SLACK))
        self._spare: memoryview | None = None
        self._fill = 0
        self._beside: ThreadPoolExecutor | None = None
        self._hashing: Future[None] | None = None
        self._syncing: Future[None] | None = None
        self._synced = 0
        with naming(self.part):
            self.part.unlink(missing_ok=True)
            self._descriptor = modes.create(self.part, os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW)

    @property
    def open(self) -> bool:
        return self._descriptor >= 0

    @property
    def space(self) -> memoryview:
        """Where to put the next bytes: at least 32 KiB, and what is left of a block."""
        return self._block[self._fill :]

    @property
    def room(self) -> int:
        """Bytes until the block is full."""
        return BLOCK - self._fill

    def advance(self, count: int) -> None:
        """`count` bytes of `space` are filled."""
        self._fill += count
        if self._fill >= BLOCK:
            self._flush(last=False)

    def commit(self) -> str:
        """Writes the rest, syncs and renames into place; returns the file's SHA-256 in hex."""
        if not self.open:
            raise Conflict("already closed", where=str(self.path))
        try:
            self._flush(last=True)
            self._end_sync()
            with naming(self.path):
                os.fsync(self._descriptor)
                mine, there = os.fstat(self._descriptor), self.part.lstat()
                if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
                    raise Conflict("another writer took this file's place", where=str(self.path))
                self.part.replace(self.path)
                sync_folder(self.path.parent)
        except BaseException:
            self.abort()
            raise
        self._release()
        return self._hash.hexdigest()

    def abort(self) -> None:
        """Removes what was written. May be called twice, and does nothing after `commit`."""
        if not self.open:
            return
        with suppress(OSError):
            mine, there = os.fstat(self._descriptor), self.part.lstat()
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                self.part.unlink()
        self._release()

    def _flush(self, *, last: bool) -> None:
        data = self._block[: self._fill]
        self._settle()
        if last:
            self._hash.update(data)
        else:
            if self._beside is None:
                self._beside = ThreadPoolExecutor(2, thread_name_prefix="part-file")
            self._hashing = self._beside.submit(self._hash.update, data)
        with naming(self.path):
            left = data
            while left:
                left = left[os.write(self._descriptor, left) :]
        self.size += self._fill
        self._fill = 0
        if not last:
            self._begin_sync()
            spare = self._spare if self._spare is not None else memoryview(bytearray(BLOCK + _SLACK))
            self._block, self._spare = spare, self._block

    def _begin_sync(self) -> None:
        if self._beside is None or self.size - self._synced < SYNC_EVERY:
            return
        if self._syncing is None or self._syncing.done():
            self._end_sync()
            self._synced = self.size
            self._syncing = self._beside.submit(os.fdatasync, self._descriptor)

    def _end_sync(self) -> None:
        """Waits for the sync under way. A failure is told only once by the system, so it is kept here."""
        if self._syncing is not None:
            syncing, self._syncing = self._syncing, None
            with naming(self.path):
                syncing.result()

    def _settle(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None

    def _release(self) -> None:
        if self._beside is not None:
            self._beside.shutdown(wait=True)
            self._beside = None
        descriptor, self._descriptor = self._descriptor, -1  # closed, also where the system says it was not
        os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            with suppress(Exception):
                self.abort()


def write_whole(path: Path, data: bytes) -> str:
    """Writes a small file atomically; returns its SHA-256 in hex."""
    part = PartFile(path)
    try:
        left = memoryview(data)
        while left:
            count = min(len(left), part.room)
            part.space[:count] = left[:count]
            part.advance(count)
            left = left[count:]
        return part.commit()
    except BaseException:
        part.abort()
        raise


def read_whole(folder: Path, relative: str, limit: int) -> bytes:
    """A small file's bytes; InvalidInput where it has more than `limit`."""
    path = folder / relative
    descriptor = open_regular(folder, relative)
    with naming(path), os.fdopen(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidInput(f"larger than {limit} bytes", where=str(path))
    return data
