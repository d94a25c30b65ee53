"""What the engine's processes tell the first one: how far loading is, what they warn of, and what went wrong.

Datagrams on a Unix socket in the private temporary folder, because vLLM's own processes share nothing
else with the first. A report holds numbers, names of exceptions, modules and lines, and sentences that stand in the
program's source; never the text of an exception or of a log line, which could hold a prompt.
"""

from __future__ import annotations

import logging
import socket
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from cloister.engine.vetting import vetted

_MAX_BYTES = 4096
_SAID_EVERY_S = 1.0


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """`done` of `total` bytes of weights lie in the model."""

    done: int
    total: int


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The server process has imported what it needs and sets up the model."""


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """`kind` of exception at `place` (`module:line`)."""

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.place}"


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A warning or an error that was logged at `place`; `words` as `vetting` lets them through, if it does."""

    level: str
    place: str
    words: str | None

    def __str__(self) -> str:
        return f"{self.words or f'{self.level} without words that may be shown'} ({self.place})"


Report = Loaded | Started | Fault | Said


class ReportReader:
    """The receiving end, a socket at `path`. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o600)

    def next(self, timeout_s: float) -> Report | None:
        """The next report, or None when there is none within `timeout_s`."""
        self._socket.settimeout(timeout_s)
        with suppress(TimeoutError, msgspec.DecodeError):
            return self._decoder.decode(self._socket.recv(_MAX_BYTES))
        return None

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def send_report(path: Path, report: Report) -> None:
    """Sends `report` to whoever listens at `path`; lost if nobody does or the queue is full."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(msgspec.json.encode(report), str(path))


def fault_of(error: BaseException) -> Fault:
    """Kind and place of an exception: its innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{_module_of(frames[-1].filename)}:{frames[-1].lineno}" if frames else "unknown"
    return Fault(kind=type(error).__name__, place=place)


class LogHandler(logging.Handler):
    """A logging handler that reports the exceptions of error records and, at most one a second, what else is warned
    of; it drops everything else."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self._path = path
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info and record.levelno >= logging.ERROR else None
        if error is not None:
            send_report(self._path, fault_of(error))
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SAID_EVERY_S
        with suppress(Exception):  # an engine answers, whatever becomes of its log
            place = f"{_module_of(record.pathname)}:{record.lineno}"
            send_report(self._path, Said(record.levelname.lower()[:16], place[:200], vetted(record)))


def _module_of(filename: str) -> str:
    """The dotted name of a source file, from its place below a package root."""
    parts = Path(filename).with_suffix("").parts
    for root in ("site-packages", "src"):
        if root in parts:
            return ".".join(parts[len(parts) - parts[::-1].index(root) :])
    return parts[-1] if parts else "unknown"
