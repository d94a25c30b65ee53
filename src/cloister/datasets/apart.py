"""Reading in a process of its own: what a hostile source does to its reader stays there.

The child has a bound on its memory, and hands rows and problems back through a pipe. A crash of the library that
reads, or memory that runs out, is an error that names the place where it came to. It knows no format.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from cloister.datasets.canonical import EncodedRows
from cloister.datasets.problems import Fault, ProblemLog, Unreadable

_LENGTH = 8
_LINGER_MS = 500
_MAX_FRAME = 1 << 30


class Encoded(msgspec.Struct, tag=True, frozen=True, array_like=True, gc=False):
    """Some good rows, ready to be stored; the faults of some bad ones by line and place; how much was read."""

    rows: EncodedRows
    bad: list[tuple[int, str, list[tuple[str, str]]]] = []
    done: int = 0


class Doubtful(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Rows that this reader cannot vouch for."""


class At(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """What is read next."""

    place: str


class Broken(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The source cannot be read further."""

    rule: str
    place: str = ""
    remedy: str | None = None


class Ended(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """All was read."""


Said = Encoded | Doubtful | At | Broken | Ended
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Said)


class ReadApart:
    """Runs `read` in a child process, from now on; take its `rows`, or `close` it.

    Make it before this process has threads: only the one that forks goes on in the child.

    Args:
        read: yields what it has to say, and raises Unreadable; it runs in the child.
        memory: bytes that the child may hold beyond what it holds once it has begun.
        what: what is read, for messages.
    """

    def __init__(self, read: Callable[[], Iterator[Said]], *, memory: int, what: str) -> None:
        self._memory = memory
        self._what = what
        self.done = 0
        reading, writing = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(reading)
            become_reader(lambda: _tell(read, writing, memory))
        os.close(writing)
        self._pipe = os.fdopen(reading, "rb")
        self._status: int | None = None

    def rows(self, problems: ProblemLog) -> Iterator[EncodedRows]:
        """Rows as they come. Raises Unreadable where the source, or its reader, breaks."""
        place = ""
        try:
            for said in frames(self._pipe.read):
                if isinstance(said, At):
                    place = said.place
                elif isinstance(said, Encoded):
                    for line, where, faults in said.bad:
                        problems.add(line, [Fault(*fault) for fault in faults], where)
                    self.done = said.done
                    yield said.rows
                elif isinstance(said, Broken):
                    raise Unreadable(said.rule, place=said.place or place, remedy=said.remedy)
                else:
                    return
        finally:
            status = self.close()
        raise Unreadable(
            self._fate(status), place=place, remedy="The file is damaged, or made to break its readers."
        )

    def close(self) -> int:
        """Let go of the child, and end it where it has not ended. Returns its exit status, or minus the signal."""
        if self._status is None:
            self._pipe.close()
            self._status = end_reader(self._child)
        return self._status

    def _fate(self, status: int) -> str:
        if status == -signal.SIGKILL:
            return f"reading the {self._what} was ended by the system: memory ran out"
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"the reader of the {self._what} crashed ({how})"


def frames(read: Callable[[int], bytes]) -> Iterator[Said]:
    """What the child said; it ends without a word where the child did."""
    while len(length := read(_LENGTH)) == _LENGTH:
        size = int.from_bytes(length, "little")
        data = read(size) if size <= _MAX_FRAME else b""
        if len(data) < size:
            return
        yield _DECODER.decode(data)


def end_reader(child: int) -> int:
    """Its exit status, or minus the signal that ended it. One that does not end by itself is ended."""
    ended = select.poll()
    pidfd = os.pidfd_open(child)
    try:
        ended.register(pidfd, select.POLLIN)
        if not ended.poll(_LINGER_MS):
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def become_reader(work: Callable[[], object]) -> NoReturn:
    """In a child that was just forked: do the work in silence, and end."""
    status = 1
    try:
        faulthandler.disable()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)  # a library's last words hold content
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
        status = 0
    except BaseException:
        status = 1
    finally:
        os._exit(status)


def _tell(read: Callable[[], Iterator[Said]], writing: int, memory: int) -> None:
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        _say_all(read, pipe.write, memory)


def _say_all(
    read: Callable[[], Iterator[Said]], write: Callable[[memoryview], int | None], memory: int
) -> None:
    def say(said: Said) -> None:
        data = memoryview(framed(said))
        while data:
            data = data[write(data) or 0 :]

    _bound(memory)
    try:
        for said in read():
            say(said)
        say(Ended())
    except Unreadable as error:
        say(Broken(error.message, error.place, error.remedy))
    except MemoryError:
        _bound(1 << 62)
        say(
            Broken(
                f"takes more than {memory >> 20} MiB of memory to read",
                remedy="Write it with smaller row groups and pages.",
            )
        )


def framed(said: Said) -> bytearray:
    """What is said, behind its length."""
    data = bytearray(_LENGTH)
    _ENCODER.encode_into(said, data, _LENGTH)
    data[:_LENGTH] = (len(data) - _LENGTH).to_bytes(_LENGTH, "little")
    return data


def _bound(memory: int) -> None:
    """Let this process hold so much more private memory than it holds now, and no more."""
    held = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            held = int(line.split()[1]) << 10
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = held + memory
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (min(soft, (1 << 63) - 1), hard))
