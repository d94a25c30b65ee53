"""A search of every byte of every file under some folders for one string: the test of 'no plaintext on disk'.

It looks into regular files only, in blocks, and follows no link. It knows nothing of what it searches.
"""

from __future__ import annotations

import base64
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
    wanted = needles(text)
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
    overlap = max(map(len, wanted)) - 1
    position, tail = 0, b""
    while block := os.read(descriptor, BLOCK):
        window = tail + block
        hits = [hit for needle in wanted if (hit := window.find(needle)) >= 0]
        if hits:
            return position - len(tail) + min(hits)
        tail = window[-overlap:]
        position += len(block)
    return None
