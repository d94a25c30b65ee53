"""The terminal under the console: read and written as Textual does, but one that goes, stalls or sends nonsense ends
nothing badly, and a signal leaves it as it was found. It knows no screen.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
from codecs import getincrementaldecoder
from queue import Full
from types import FrameType
from typing import TYPE_CHECKING

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

from cloister.console.surroundings import ESCAPE_S, is_poor

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 0.1
"""The reading thread looks this often whether it is to end."""
STALL_S = 0.5
GRACE_S = 3.0
"""So long an orderly end may take after a signal; then the terminal is put right and the process ends."""
ENDING = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
INSTEAD = str.maketrans("●…╭╮╰╯┏┓┗┛┃━▁▂▃▅▆▇", "•»┌┐└┘╔╗╚╝║═  ▄▄██")
"""What the Linux console's own font (code page 437, `drivers/tty/vt/cp437.uni`) lacks, and what it has instead."""
RESTORE = b"\x1b[?2004l\x1b[?7h\x1b[?1049l\x1b[?25h\x1b[?1004l\x1b[0m"


class Terminal(LinuxDriver):
    """The driver of a real terminal."""

    def write(self, data: str) -> None:
        """Hand over to the thread that writes; into a terminal that is gone, nothing is written."""
        if os.environ.get("TERM") == "linux":
            data = data.translate(INSTEAD)
        writer = self._writer_thread
        while writer is not None and writer.is_alive():
            try:
                writer._queue.put(data, timeout=STALL_S)
                return
            except Full:
                continue

    def _get_terminal_size(self) -> tuple[int, int]:
        """Of the terminal itself: COLUMNS and LINES may be of another one, and do not follow it."""
        for stream in (self._file, sys.__stdout__, sys.__stdin__):
            with contextlib.suppress(AttributeError, ValueError, OSError):
                return tuple(os.get_terminal_size(stream.fileno()))  # type: ignore[union-attr, return-value]
        return super()._get_terminal_size()

    def _request_terminal_sync_mode_support(self) -> None:
        if not is_poor():
            super()._request_terminal_sync_mode_support()

    def _query_in_band_window_resize(self) -> None:
        if not is_poor():
            super()._query_in_band_window_resize()

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:
            self._gone()

    def run_input_thread(self) -> None:
        """Read keys until the driver ends, or the terminal does. What is not UTF-8 is shown as such."""
        parser = XTermParser(self._debug)
        decode = getincrementaldecoder("utf-8")("replace").decode
        wait = LOOK_S
        while not self.exit_event.is_set():
            readable, _, _ = select.select([self.fileno], [], [], wait)
            wait = LOOK_S
            if readable:
                raw = os.read(self.fileno, 4096)
                if not raw:
                    self._gone()
                    return
                for event in parser.feed(decode(raw)):
                    self.process_message(event)
                wait = ESCAPE_S if raw.endswith(b"\x1b") else LOOK_S
            for event in parser.tick():
                self.process_message(event)

    def _gone(self) -> None:
        """The terminal has ended: so does the console, as after a hang-up."""
        if not self.exit_event.is_set():
            os.kill(os.getpid(), signal.SIGHUP)


class Signals:
    """While it is entered, SIGHUP, SIGTERM and SIGINT end the console in order: `end` gets the exit code, in the
    main thread. An end that does not come within `GRACE_S` is made."""

    def __init__(self, end: Callable[[int], object]) -> None:
        self._end = end
        self._before: dict[signal.Signals, object] = {}
        self._attributes: list[object] | None = None

    def __enter__(self) -> Signals:
        try:
            self._attributes = termios.tcgetattr(0)
        except termios.error:
            self._attributes = None
        for number in ENDING:
            self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(GRACE_S, self._at_once, (128 + number,))
        timer.daemon = True
        timer.start()
        self._end(128 + number)

    def _at_once(self, code: int) -> None:
        """End without waiting for anything, with the terminal as it was."""
        try:
            if self._attributes is not None:
                termios.tcsetattr(0, termios.TCSANOW, self._attributes)  # type: ignore[arg-type]
            os.set_blocking(2, False)
            os.write(2, RESTORE)
        except (OSError, termios.error):
            pass
        os._exit(code)
