"""The lines that a sandbox printed, numbered and bounded in memory. It parses no more than it must:
whether a line ends the job, because that one is never dropped."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator

MAX_LINE = 1 << 20
MAX_LINES = 20_000
MAX_BYTES = 16 << 20
_FINAL = frozenset({"result", "failure"})
_SHORTEST_OVERHEAD = 120  # what a kept line costs beside its bytes, about


class LineSplitter:
    """Bytes in, lines out. A line over `max_line` bytes is replaced by a notice that says so."""

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._pending = bytearray()
        self._dropping = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their ends."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            yield from self._complete(data[start:end])
            start = end + 1
        rest = data[start:]
        if self._dropping:
            self._dropping += len(rest)
        elif len(self._pending) + len(rest) > self._max_line:
            self._dropping = len(self._pending) + len(rest)
            self._pending.clear()
        else:
            self._pending += rest

    def finish(self) -> Iterator[bytes]:
        """What is left when no more comes: an unfinished line counts as one."""
        if self._pending or self._dropping:
            yield from self._complete(b"")

    def _complete(self, tail: bytes) -> Iterator[bytes]:
        if self._dropping or len(self._pending) + len(tail) > self._max_line:
            size = self._dropping + len(self._pending) + len(tail)
            self._dropping = 0
            self._pending.clear()
            yield notice(f"A line of {size} bytes was left out: lines end at {self._max_line} bytes.")
            return
        line = bytes(self._pending) + tail
        self._pending.clear()
        if line:
            yield line


class LineBuffer:
    """The last lines, numbered from 1, at most `max_lines` and `max_bytes` of them; and always the last
    `result` or `failure`, however much came after it."""

    def __init__(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._final: tuple[int, bytes, str] | None = None
        self.last = 0
        """The number of the last line, 0 before the first."""

    @property
    def final(self) -> str | None:
        """`result` or `failure` once such a line has come."""
        return self._final[2] if self._final else None

    def append(self, line: bytes) -> int:
        """Keep a line, dropping the oldest where there is no room; return its number."""
        self.last += 1
        kind = final_kind(line)
        if kind is not None:
            self._final = (self.last, line, kind)
        self._lines.append((self.last, line))
        self._bytes += len(line) + _SHORTEST_OVERHEAD
        while len(self._lines) > self._max_lines or (self._bytes > self._max_bytes and len(self._lines) > 1):
            _, dropped = self._lines.popleft()
            self._bytes -= len(dropped) + _SHORTEST_OVERHEAD
        return self.last

    def after(self, number: int, limit: int = 256) -> list[tuple[int, bytes]]:
        """Up to `limit` kept lines with greater numbers, in order."""
        first = self._lines[0][0] if self._lines else self.last + 1
        found: list[tuple[int, bytes]] = []
        if self._final is not None and number < self._final[0] < first:
            found.append(self._final[:2])
        start = max(0, number + 1 - first)
        for index in range(start, min(len(self._lines), start + limit - len(found))):
            found.append(self._lines[index])
        return found


def final_kind(line: bytes) -> str | None:
    """`result` or `failure` where the line is an event that ends a job, else None."""
    if b'"result"' not in line and b'"failure"' not in line:
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = document.get("event") if isinstance(document, dict) else None
    return kind if isinstance(kind, str) and kind in _FINAL else None


def notice(message: str) -> bytes:
    """A warning of the launcher's own, in the form of a worker's."""
    return json.dumps({"event": "notice", "level": "warning", "message": message}).encode()
