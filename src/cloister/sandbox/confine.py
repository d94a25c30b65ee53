"""A process of somebody else's code inside a sandbox: pipes, its own memory, and nothing else.

`confined.py` runs there, on the bare interpreter: no site packages, no environment, no descriptor but two pipes. A
system-call filter that allows what computing needs and nothing else is put on before the code is read: no file is
opened, no socket, no process started, no signal sent. Knows frames of bytes, not what they mean.
"""

from __future__ import annotations

import base64
import builtins
import errno
import json
import os
import platform
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from cloister.errors import JobFailed, SandboxUnavailable
from cloister.sandbox.seccomp import allow_only

_CALLS = {
    # (x86_64, aarch64); numbers of asm/unistd.h
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
MEMORY_BYTES = 1 << 29
ROW_SECONDS = 10.0
"""For one call."""
CPU_SECONDS = 600
MAX_FRAME = 1 << 26
_TOLD = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
_TOLD |= {
    "JSONDecodeError",
    "StatisticsError",
    "DecimalException",
    "InvalidOperation",
    "DivisionByZero",
    "error",
}
"""Exceptions that are told by name: those of Python and of what a metric may import. A name that the file makes up may
be a word of a row."""


class Confined:
    """A function of somebody's Python file, called in a process of its own.

    Raises:
        SandboxUnavailable: the kernel refuses the filter: then nothing of the file is run.
        JobFailed: the file, or a call, fails: by type and line, without a word of content.
    """

    def __init__(self, source: bytes, function: str, *, row_seconds: float = ROW_SECONDS) -> None:
        self._row_seconds = row_seconds
        self._function = function
        self._lines = source.count(b"\n") + 1
        child = Path(__file__).with_name("confined.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"LC_ALL": "C.UTF-8"},
            close_fds=True,
            bufsize=0,
        )
        try:
            answer = self._exchange(
                {
                    "filter": base64.b64encode(allow_only(_numbers())).decode(),
                    "source": base64.b64encode(source).decode(),
                    "function": function,
                    "memory": MEMORY_BYTES,
                    "cpu": CPU_SECONDS,
                }
            )
            self._require(answer)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Confined:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, *arguments: Any) -> Any:
        """What the function returns: of JSON's kinds, numbers as floats."""
        answer = self._exchange({"arguments": arguments})
        self._require(answer)
        return answer.get("value")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        deadline = time.monotonic() + self._row_seconds
        data = json.dumps(message).encode()
        try:
            self._write(len(data).to_bytes(4, "big") + data, deadline)
            size = int.from_bytes(self._read(4, deadline), "big")
            if size > MAX_FRAME:
                raise self._failed("it answered with too much")
            found = json.loads(self._read(size, deadline))
        except (BrokenPipeError, EOFError):
            raise self._failed(
                "its process ended: too much memory or time, or a call that it may not make"
            ) from None
        except TimeoutError:
            raise self._failed(f"a call took longer than {self._row_seconds:g} s") from None
        except (ValueError, RecursionError):
            raise self._failed("it answered with something that is no number") from None
        if not isinstance(found, dict):
            raise self._failed("it answered with something that is no number")
        return found

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._process.stdin is not None
        descriptor, view = self._process.stdin.fileno(), memoryview(data)
        os.set_blocking(descriptor, False)
        while view:
            if not select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))[1]:
                raise TimeoutError
            view = view[os.write(descriptor, view) :]

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        pieces, descriptor = b"", self._process.stdout.fileno()
        while len(pieces) < size:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            piece = os.read(descriptor, size - len(pieces))
            if not piece:
                raise EOFError
            pieces += piece
        return pieces

    def _require(self, answer: dict[str, Any]) -> None:
        """Errors: as the class has them. The user's code may answer by itself: only words that are known go on."""
        refused = answer.get("unconfined")
        if isinstance(refused, int):
            raise SandboxUnavailable(
                "The kernel refuses to confine the metric's process; nothing of it was run.",
                where=f"errno {refused} ({errno.errorcode.get(refused, '?')})",
            )
        if "error" in answer:
            kind, line = str(answer["error"]), answer.get("line")
            kind = kind if kind in _TOLD else "an exception"
            within = isinstance(line, int) and 0 < line <= self._lines
            raise self._failed(f"{kind} in line {line}" if within else f"{kind}, outside its lines")

    def _failed(self, what: str) -> JobFailed:
        return JobFailed(
            f"The metric fails: {what}.",
            where=self._function,
            remedy="It gets (prediction, expected, row) and may use what the standard library computes with: no file, "
            "no network, no other module.",
        )


def _numbers() -> list[int]:
    column = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
    if column is None:
        raise SandboxUnavailable("A metric of one's own cannot be confined here.", where=platform.machine())
    return [numbers[column] for numbers in _CALLS.values()]
