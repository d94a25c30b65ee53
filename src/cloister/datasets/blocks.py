"""Blocks of whole lines out of a byte stream, in memory bounded by the longest line allowed.

Knows newlines and their numbers; it does not know what a line means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cloister.datasets.compression import Readable

READ_SIZE = 1 << 17
"""What is made of so much stays in a core's cache until it is encoded: larger blocks are slower by a tenth."""


class Block(NamedTuple):
    """Whole lines, newlines included (the source's last line may lack its own)."""

    line: int
    data: bytes


class Overlong(NamedTuple):
    """A line that is longer than allowed; its bytes were dropped as they came."""

    line: int


class Blocks:
    """Iterates once over a source as `Block` and `Overlong`, in order.

    Args:
        source: readable bytes; short reads (a pipe) are fine, seeking is not needed.
        max_line: the most bytes a line may have, its newline not counted.
    """

    def __init__(self, source: Readable, max_line: int, read_size: int = READ_SIZE) -> None:
        self.source = source
        self._max_line = max_line
        self._read_size = read_size
        self._ahead = b""
        self._at = 0
        self.consumed = 0
        self.line = self._next = 1
        """The line on which what is read now begins."""

    def peek(self, size: int) -> bytes:
        """Up to `size` bytes of the start, without taking them; call it before iterating."""
        self.has(size)
        return self._ahead[self._at : self._at + size]

    def has(self, size: int) -> bool:
        """Whether there are so many bytes, which are then held ahead; call it before iterating."""
        pieces = [self._ahead[self._at :]]
        held = len(pieces[0])
        while held < size and (chunk := self.source.read(size - held)):
            pieces.append(chunk)
            held += len(chunk)
        self._ahead, self._at = b"".join(pieces), 0
        return held >= size

    def skip(self, size: int) -> None:
        """Leave out the first `size` bytes that were peeked at (a byte-order mark)."""
        self._at += size
        self.consumed += size

    def take(self) -> bytes:
        """What was peeked at; whoever takes it reads on from the source."""
        ahead, self._ahead, self._at = self._ahead[self._at :], b"", 0
        self.consumed += len(ahead)
        return ahead

    def __iter__(self) -> Iterator[Block | Overlong]:
        for block in self._blocks():
            self.line = block.line
            yield block
            self.line = self._next

    def _blocks(self) -> Iterator[Block | Overlong]:
        line = 1
        held: list[bytes] = []
        held_size = 0
        skipping = False
        while chunk := self._read():
            if skipping:
                end = chunk.find(b"\n")
                if end < 0:
                    continue
                skipping = False
                line += 1
                chunk = chunk[end + 1 :]
            end = chunk.rfind(b"\n") + 1
            if end:
                data = b"".join([*held, memoryview(chunk)[:end]])
                begun, line = line, line + data.count(b"\n")
                self._next = line
                yield from self._bounded(begun, data)
                held, held_size = [], 0
                chunk = chunk[end:]
            if chunk:
                held.append(chunk)
                held_size += len(chunk)
                if held_size > self._max_line:
                    self._next = line
                    yield Overlong(line)
                    held, held_size, skipping = [], 0, True
        if held:
            yield Block(line, b"".join(held))

    def _read(self) -> bytes:
        if self._at < len(self._ahead):
            chunk = self._ahead[self._at : self._at + self._read_size]
            self._at += len(chunk)
        else:
            self._ahead, self._at = b"", 0
            chunk = self.source.read(self._read_size)
        self.consumed += len(chunk)
        return chunk

    def _bounded(self, line: int, data: bytes) -> Iterator[Block | Overlong]:
        """`data` (whole lines) as blocks around its overlong lines, of which there are rarely any."""
        limit = self._max_line
        if len(data) <= limit + 1:
            yield Block(line, data)
            return
        begin = at = 0
        first = line
        while at < len(data):
            end = data.index(b"\n", at) + 1
            if end - at > limit + 1:
                if begin < at:
                    yield Block(first, data[begin:at])
                yield Overlong(line)
                begin, first = end, line + 1
            at = end
            line += 1
        if begin < len(data):
            yield Block(first, data[begin:])
