"""What the engine's processes tell the first one: how far loading is, what they warn of, and what went wrong.

Datagrams on a Unix socket in the private temporary folder, because vLLM's own processes share nothing
else with the first. A report holds numbers, names of exceptions, modules, lines and libraries, and sentences that stand
in the program's source; never the text of an exception or of a log line, which could hold a prompt.
"""

from __future__ import annotations

import logging
import re
import socket
import time
import traceback
from collections.abc import Mapping
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
    """`kind` of exception at `place` (`module:line`); `caller` is the innermost place of vLLM's or ours above it."""

    kind: str
    place: str
    caller: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} in {self.place}" + (f", from {self.caller}" if self.caller else "")


class Missing(msgspec.Struct, frozen=True, tag="missing"):
    """A shared library that the system's loader did not find, by its name."""

    library: str


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A warning or an error that was logged at `place`; `words` as `vetting` lets them through, if it does."""

    level: str
    place: str
    words: str | None

    def __str__(self) -> str:
        return f"{self.words or f'{self.level} without words that may be shown'} ({self.place})"


Report = Loaded | Started | Fault | Missing | Said
_NOT_FOUND = re.compile(
    r"(?<![\w./-])(lib[\w+-][\w.+-]{0,60}\.so(?:\.[0-9]{1,5}){0,4}): cannot open shared object file", re.ASCII
)
"""What ld.so(8) says of a library; a log line may quote it."""
_OURS = ("vllm.", "cloister.")


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
    places = [f"{_module_of(frame.filename)}:{frame.lineno}" for frame in frames] or ["unknown"]
    caller = next((place for place in reversed(places) if place.startswith(_OURS)), None)
    return Fault(type(error).__name__, places[-1], None if caller == places[-1] else caller)


def missing_of(*told: object) -> Missing | None:
    """The library that exceptions, what they came of, or their texts say was not found."""
    pending, seen = list(told), set[int]()
    while pending:
        one = pending.pop()
        if id(one) in seen or not isinstance(one, str | BaseException):
            continue
        seen.add(id(one))
        if isinstance(one, BaseException):
            pending += [one.__cause__, one.__context__]
        if isinstance(one, str | ImportError | OSError) and (
            found := _NOT_FOUND.search(str(one)[:_MAX_BYTES])
        ):
            return Missing(found[1])
    return None


class LogHandler(logging.Handler):
    """A logging handler that reports the exceptions of error records, libraries that were not found and, at most one a
    second, what else is warned of; it drops everything else."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self._path = path
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info and record.levelno >= logging.ERROR else None
        if error is not None:
            send_report(self._path, fault_of(error))
        if (missing := missing_of(error, *_values(record))) is not None:
            send_report(self._path, missing)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SAID_EVERY_S
        with suppress(Exception):  # an engine answers, whatever becomes of its log
            place = f"{_module_of(record.pathname)}:{record.lineno}"
            send_report(self._path, Said(record.levelname.lower()[:16], place[:200], vetted(record)))


def _values(record: logging.LogRecord) -> tuple[object, ...]:
    """What is to be put into a record's words."""
    if isinstance(record.args, Mapping):
        return tuple(record.args.values())
    return record.args or ()


def _module_of(filename: str) -> str:
    """The dotted name of a source file, from its place below a package root."""
    parts = Path(filename).with_suffix("").parts
    for root in ("site-packages", "src"):
        if root in parts:
            return ".".join(parts[len(parts) - parts[::-1].index(root) :])
    return parts[-1] if parts else "unknown"
