"""A search of every byte of every file under some folders for one string: the test of 'no plaintext on disk'.

It looks into regular files only, in blocks, and follows no link. It knows nothing of what it searches.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4 << 20


@dataclass(frozen=True)
class Leak:
    """Where a needle was found, in bytes from the start of the file."""

    path: Path
    offset: int


def needles(text: str) -> list[bytes]:
    """The string as it could lie in a file: UTF-8, UTF-16, and its base 64 at each alignment."""
    plain = text.encode()
    found = [plain, text.encode("utf-16-le")]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + plain)
        # Drop the characters that also depend on what stands before and after.
        found.append(encoded[(0, 2, 3)[shift] : len(encoded) - 4])
    return found


def find_leaks(text: str, folders: Iterable[Path]) -> list[Leak]:
    """Every file under the folders that holds the string, once a file, with the first place."""
    return find_bytes(needles(text), folders)


def find_bytes(wanted: list[bytes], folders: Iterable[Path]) -> list[Leak]:
    """Every file under the folders that holds one of these, once a file; files that go meanwhile are passed over."""
    seen: set[tuple[int, int]] = set()
    leaks = []
    for path in _files(folders):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            offset = _search(descriptor, wanted)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if offset is not None:
            leaks.append(Leak(path, offset))
    return leaks


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                yield Path(parent) / name


def _search(descriptor: int, wanted: list[bytes]) -> int | None:
    """The first place of one of them. Holes are read as the zeros that they are, and not one by one."""
    overlap = max(map(len, wanted)) - 1
    position, tail = 0, b""
    while True:
        data = _next_data(descriptor, position)
        if data > position:  # a hole: only its first zeros can end something that began before it
            zeros = bytes(min(overlap, data - position))
            found = _first(tail + zeros, wanted)
            if found is not None:
                return position - len(tail) + found
            position, tail = data, (tail + zeros)[-overlap:] if data - position < overlap else zeros
        block = os.pread(descriptor, BLOCK, position)
        if not block:
            return None
        found = _first(tail + block, wanted)
        if found is not None:
            return position - len(tail) + found
        tail = (tail + block)[-overlap:]
        position += len(block)


def _first(window: bytes, wanted: list[bytes]) -> int | None:
    return min((hit for needle in wanted if (hit := window.find(needle)) >= 0), default=None)


def _next_data(descriptor: int, position: int) -> int:
    """Where the next bytes lie that are on disk; the file's end where there are none."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return max(position, os.fstat(descriptor).st_size)
        return position  # a file system that does not tell: everything is read
