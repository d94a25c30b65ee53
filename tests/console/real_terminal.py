"""A real pseudo-terminal with the console in it: what it writes is drawn on a small screen of our own and timed.

The screen knows what the console uses: moves, colours, text. Anything else that acts on a terminal is counted in
`others`, so that a test can ask for none.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.cells import cell_len

SEQUENCE = re.compile(
    r"\x1b\[(?P<kind>[<>?]?)(?P<numbers>[\d;:]*)(?P<between>[ $!]*)(?P<end>[@-~])"
    r"|\x1b\](?P<osc>[^\x07\x1b]*)(?:\x07|\x1b\\)"
    r"|\x1b(?P<escape>[^\[\]])"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f-\x9f])"
    r"|(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
)
KEYS = {"down": "\x1b[B", "up": "\x1b[A", "enter": "\r", "escape": "\x1b", "home": "\x1b[H", "end": "\x1b[F"}


class Grid:
    """Rows and columns of characters, each with the numbers of its look (SGR)."""

    def __init__(self, columns: int, rows: int) -> None:
        self.others: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.resize(columns, rows)
        self._left = ""

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cells = [[(" ", "")] * columns for _ in range(rows)]
        self._x = self._y = 0
        self._look = ""

    def feed(self, text: str) -> None:
        """Draw what was written. A sequence that is cut off is kept for the next time."""
        text = self._left + text
        at = 0
        while at < len(text):
            match = SEQUENCE.match(text, at)
            if match is None:
                if len(text) - at > 4096:
                    raise AssertionError(f"no sequence of ours: {text[at : at + 40]!r}")
                break
            at = match.end()
            self._take(match)
        self._left = text[at:]

    def _take(self, match: re.Match[str]) -> None:
        if match["text"] is not None:
            self._write(match["text"])
        elif match["end"] is not None:
            self._control(match["kind"], match["numbers"], match["end"], match.group())
        elif match["control"] == "\r":
            self._x = 0
        elif match["control"] == "\n":
            self._y = min(self._y + 1, self.rows - 1)
        else:
            self.others[match.group()[:40]] += 1

    def _control(self, kind: str, numbers: str, end: str, whole: str) -> None:
        if end == "m" and not kind:
            self._look = "" if numbers in ("", "0") else numbers
            self.looks.update(numbers.split(";"))
        elif end == "H" and not kind:
            row, _, column = numbers.partition(";")
            self._y, self._x = int(row or 1) - 1, int(column or 1) - 1
        elif end == "J":
            self.cells = [[(" ", "")] * self.columns for _ in range(self.rows)]
        elif kind == "?" and end in "hl":
            if "1049" in numbers:
                self.cells = [[(" ", "")] * self.columns for _ in range(self.rows)]
        else:
            self.others[whole] += 1

    def _write(self, text: str) -> None:
        for character in text:
            width = cell_len(character)
            if width == 0 or not 0 <= self._y < self.rows:
                continue
            if self._x < self.columns:
                self.cells[self._y][self._x] = (character, self._look)
                for x in range(self._x + 1, min(self.columns, self._x + width)):
                    self.cells[self._y][x] = ("", self._look)
            self._x += width

    @property
    def text(self) -> str:
        """The screen, a line a row."""
        return "\n".join("".join(cell for cell, _ in row).rstrip() for row in self.cells)

    def reversed_rows(self) -> list[int]:
        """Rows most of whose cells are reversed: the cursor's."""
        return [
            y
            for y, row in enumerate(self.cells)
            if 2 * sum("7" in look.split(";") for _, look in row) > self.columns
        ]


class RealTerminal:
    """A program in a pseudo-terminal. Times are of `time.perf_counter`, in seconds."""

    def __init__(
        self,
        command: list[str],
        *,
        size: tuple[int, int] = (80, 24),
        environment: Mapping[str, str] | None = None,
        controlling: bool = True,
        unset: tuple[str, ...] = ("NO_COLOR", "COLORTERM", "TMUX"),
    ) -> None:
        self.grid = Grid(*size)
        self.bytes = 0
        self.everything = ""
        """The last million characters that were written."""
        self.painted_at = 0.0
        self._unknown: AssertionError | None = None
        self._decode = getincrementaldecoder("utf-8")("replace").decode
        self._changed = threading.Condition()
        self.master, slave = pty.openpty()
        self._set_size(*size)
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        """How it stood before the program began."""
        known = {name: value for name, value in os.environ.items() if name not in unset}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if controlling else None,
            env={**known, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(environment or {})},
        )
        self.start_reading()

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Another size, as a window manager gives it."""
        with self._changed:
            self.grid.resize(columns, rows)
            self._set_size(columns, rows)
        os.killpg(self.process.pid, signal.SIGWINCH)

    def _read(self) -> None:
        while self._reading:
            try:
                if not select.select([self.master], [], [], 0.05)[0]:
                    continue
                raw = os.read(self.master, 1 << 16)
            except (OSError, ValueError):
                return
            if not raw:
                return
            now = time.perf_counter()
            text = self._decode(raw)
            with self._changed:
                self.bytes += len(raw)
                self.everything = (self.everything + text)[-1_000_000:]
                try:
                    self.grid.feed(text)
                except AssertionError as error:
                    self._unknown = error
                self.painted_at = now
                self._changed.notify_all()

    def press(self, *keys: str) -> float:
        """Type keys, by name or as themselves; the time before the last."""
        for key in keys:
            began = time.perf_counter()
            os.write(self.master, KEYS.get(key, key).encode())
        return began

    def until(self, wanted: Callable[[Grid], object], seconds: float = 60) -> float:
        """Wait for a screen; the time when it was painted. Fails with the screen as it is."""
        end = time.monotonic() + seconds
        with self._changed:
            while not wanted(self.grid):
                if self._unknown is not None:
                    raise self._unknown
                if not self._changed.wait(max(0.0, end - time.monotonic())):
                    raise AssertionError(f"not on the screen after {seconds} s:\n{self.grid.text}")
            return self.painted_at

    def shows(self, *words: str, seconds: float = 60) -> float:
        """Wait until all these words are on the screen."""
        return self.until(lambda grid: all(word in grid.text for word in words), seconds)

    def bytes_in(self, seconds: float) -> float:
        """Bytes a second that are written in so long."""
        before, began = self.bytes, time.perf_counter()
        time.sleep(seconds)
        return (self.bytes - before) / (time.perf_counter() - began)

    def start_reading(self) -> None:
        self._reading = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def stop_reading(self) -> None:
        """Take nothing any more of what is written: the terminal's buffer fills."""
        self._reading = False
        self._reader.join(5)

    def hang_up(self) -> None:
        """The terminal goes, as a connection does."""
        self.stop_reading()
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def ended(self, seconds: float = 60) -> int:
        """Wait for the program's end; its exit code, negative for a signal."""
        code = self.process.wait(seconds)
        time.sleep(0.1)  # the last of what it wrote
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.stop_reading()
        for descriptor in (self.slave, self.master):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> RealTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def console_at(home: Path, **options: object) -> RealTerminal:
    """The console on that home, as an operator starts it."""
    environment = {"CLOISTER_HOME": str(home), **options.pop("environment", {})}  # type: ignore[dict-item]
    command = [sys.executable, "-m", "cloister.cli.main", "console"]
    return RealTerminal(command, environment=environment, **options)  # type: ignore[arg-type]
