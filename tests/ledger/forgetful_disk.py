"""A disk that keeps what was synced and forgets the rest when its power fails, as Linux does it.

Stands between the ledger and the system's calls. Each page that was written is dirty until a sync of its
file; a sync that fails takes its pages for clean without having written them, so a later one that succeeds
does not write them either. Names of a folder are durable once the folder was synced.
"""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = 4096
MUTATING = (
    "pwrite",
    "fsync",
    "fdatasync",
    "replace",
    "unlink",
    "rmdir",
    "mkdir",
    "posix_fallocate",
    "ftruncate",
)


class ForgetfulDisk:
    """Everything below `root`. `fault` makes a call fail with an error number; `dead` is a killed process."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.fault: dict[str, int] = {}
        self.fault_at = ""
        """Only calls on a path that ends so fail."""
        self.dead = False
        self.lock = threading.RLock()
        self._real: dict[str, Callable[..., Any]] = {}
        self._data: dict[int, bytearray] = {}
        self._dirty: dict[int, set[int]] = {}
        self._names: dict[str, dict[str, tuple[int, bool]]] = {}
        self._seen: set[int] = set()
        self._keep: list[int] = []
        for name in (*MUTATING, "open"):
            self._real[name] = getattr(os, name)
            monkeypatch.setattr(os, name, self._wrapped(name))

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self.lock:
                if not self._mine(arguments):
                    return self._real[name](*arguments, **named)
                if self.dead and name != "open":
                    if name in ("unlink", "rmdir"):
                        return None
                    raise OSError(5, os.strerror(5))
                code = self.fault.get(name)
                if code and self._path(arguments).endswith(self.fault_at):
                    if name in ("fsync", "fdatasync"):
                        self._dirty[os.fstat(arguments[0]).st_ino] = set()
                    raise OSError(code, os.strerror(code))
                result = self._real[name](*arguments, **named)
                if name == "pwrite":
                    self._written(arguments[0], arguments[2], result)
                elif name in ("fsync", "fdatasync"):
                    self._synced(arguments[0])
                elif name == "open":
                    self._opened(result)
                return result

        return call

    @staticmethod
    def _path(arguments: tuple[Any, ...]) -> str:
        first = arguments[0]
        if not isinstance(first, int):
            return os.fsdecode(first)
        try:
            return os.readlink(f"/proc/self/fd/{first}")
        except OSError:
            return ""

    def _mine(self, arguments: tuple[Any, ...]) -> bool:
        path = self._path(arguments)
        return path == str(self.root) or path.startswith(f"{self.root}/")

    def _opened(self, descriptor: int) -> None:
        """An inode's number may be used again once the file is gone: keep each one open."""
        inode = os.fstat(descriptor).st_ino
        if inode not in self._seen:
            self._seen.add(inode)
            self._keep.append(self._real["open"](f"/proc/self/fd/{descriptor}", os.O_RDONLY))

    def _written(self, descriptor: int, offset: int, length: int) -> None:
        pages = self._dirty.setdefault(os.fstat(descriptor).st_ino, set())
        pages.update(range(offset // PAGE, (offset + max(length, 1) - 1) // PAGE + 1))

    def _synced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self._names[path] = self._listing(Path(path))
            return
        self._data[status.st_ino] = self._flushed(descriptor, status, self._dirty.get(status.st_ino, set()))
        self._dirty[status.st_ino] = set()

    def _flushed(self, descriptor: int, status: os.stat_result, pages: set[int]) -> bytearray:
        """What is on the disk once these pages are."""
        content = bytearray(status.st_size)
        before = self._data.get(status.st_ino, b"")
        content[: len(before)] = before[: status.st_size]
        readable = self._real["open"](f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        try:
            for page in pages:
                piece = os.pread(readable, PAGE, page * PAGE)
                content[page * PAGE : page * PAGE + len(piece)] = piece
        finally:
            os.close(readable)
        return content

    @staticmethod
    def _listing(folder: Path) -> dict[str, tuple[int, bool]]:
        return {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(folder)}

    def lose_power(self, target: Path, rng: random.Random | None) -> None:
        """Write to `target` what is on the disk. With `rng` a part of what was not synced got there as well."""
        with self.lock:
            self._restore(self.root, target, rng)

    def _restore(self, folder: Path, target: Path, rng: random.Random | None) -> None:
        target.mkdir()
        names = self._names.get(str(folder), {})
        if rng is not None and folder.is_dir() and rng.random() < 0.5:
            names = self._listing(folder)
        for name, (inode, is_folder) in names.items():
            if is_folder:
                self._restore(folder / name, target / name, rng)
            else:
                (target / name).write_bytes(self._content(inode, rng))

    def _content(self, inode: int, rng: random.Random | None) -> bytes:
        dirty = self._dirty.get(inode, set())
        if rng is None or not dirty:
            return bytes(self._data.get(inode, b""))
        written = {page for page in dirty if rng.random() < 0.5}
        for descriptor in self._keep:
            status = os.fstat(descriptor)
            if status.st_ino == inode:
                return bytes(self._flushed(descriptor, status, written))
        return bytes(self._data.get(inode, b""))

    def close(self) -> None:
        for descriptor in self._keep:
            os.close(descriptor)
        self._keep.clear()
