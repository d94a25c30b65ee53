"""Lines read by several processes at a time: each parses, checks, encodes and hashes the rows of some blocks.

This process reads the source, deals the blocks out in turn and takes the rows back in the same order, so the result is
that of one process. What a child cannot vouch for is read here, with what follows it if need be. It knows blocks and
pipes; it knows no shape.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from cloister.datasets.apart import Doubtful, Encoded, Said, become_reader, end_reader, framed, frames
from cloister.datasets.blocks import Block, Overlong
from cloister.datasets.canonical import EncodedRows, encoded
from cloister.datasets.problems import Fault, Problem, ProblemLog, Unreadable
from cloister.datasets.rows import Row
from cloister.datasets.split import InputHash

LEAST = 8 << 20
"""Below so many bytes one process is done before others have begun."""
_PIPE = 1 << 20
_HEAD = 16

ReadBlock = Callable[[Block, ProblemLog], Sequence[Row] | None]
"""The good rows of a block, None where it is doubtful; the others go to the log. It runs in the children."""
Exactly = Callable[[Block | Overlong, Iterator[Block | Overlong]], Iterator[list[Row]]]
"""The good rows of a block that is doubtful or too long, and of those that it takes from what follows."""


class SideBySide:
    """Reads blocks in `count` child processes, from now on; take its `rows`, or `close` it.

    Make it before this process has threads: only the one that forks goes on in a child.

    Args:
        seed: of the split, None where nothing is held out and no hash is needed.
    """

    def __init__(self, read: ReadBlock, count: int, seed: int | None) -> None:
        self._children: list[tuple[int, BinaryIO, Iterator[Said], BinaryIO]] = []
        ends: list[int] = []
        for _ in range(count):
            theirs, to_child = os.pipe()
            from_child, back = os.pipe()
            for end in (to_child, from_child):
                with contextlib.suppress(OSError):
                    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE)
            child = os.fork()
            if child == 0:
                for end in (*ends, to_child, from_child):
                    os.close(end)
                become_reader(partial(_serve, read, seed, theirs, back))
            os.close(theirs)
            os.close(back)
            ends += [to_child, from_child]
            answers = os.fdopen(from_child, "rb", buffering=0)
            said = frames(_exactly(answers))
            self._children.append((child, os.fdopen(to_child, "wb", buffering=0), said, answers))

    def rows(
        self, blocks: Iterator[Block | Overlong], exactly: Exactly, problems: ProblemLog
    ) -> Iterator[list[Row] | EncodedRows]:
        """The rows of the blocks, in their order. Raises Unreadable where a child crashes."""
        turn: deque[Block | Overlong] = deque()
        free = deque(range(len(self._children)))
        busy: deque[int] = deque()

        def take() -> tuple[Block | Overlong, Encoded | None]:
            """The oldest block, and what was said of it; None where it is doubtful or too long."""
            first = turn.popleft()
            if isinstance(first, Overlong):
                return first, None
            number = busy.popleft()
            said = next(self._children[number][2], None)
            free.append(number)
            if isinstance(said, Encoded):
                return first, said
            if isinstance(said, Doubtful):
                return first, None
            raise Unreadable(
                "a reader of this block crashed",
                line=first.line,
                remedy="The file is made to break its readers, or memory ran out.",
            )

        def following() -> Iterator[Block | Overlong]:
            while turn:
                yield take()[0]
            for block in blocks:  # noqa: UP028 - who takes only some of them must not end them, as `yield from` does
                yield block

        def oldest() -> Iterator[list[Row] | EncodedRows]:
            block, said = take()
            if said is None:
                yield from exactly(block, following())
                return
            for line, _, faults in said.bad:
                problems.add(line, [Fault(*fault) for fault in faults])
            yield said.rows

        try:
            while True:
                while not free:
                    yield from oldest()
                block = next(blocks, None)
                if block is None:
                    break
                if isinstance(block, Block):
                    number = free.popleft()
                    self._hand(number, block)
                    busy.append(number)
                turn.append(block)
            while turn:
                yield from oldest()
        finally:
            self.close()

    def _hand(self, number: int, block: Block) -> None:
        head = block.line.to_bytes(8, "little") + len(block.data).to_bytes(8, "little")
        try:
            _write_all(self._children[number][1], head)
            _write_all(self._children[number][1], block.data)
        except BrokenPipeError:
            pass  # it has crashed, which is told when its rows are taken

    def close(self) -> None:
        """Let go of the children, and end those that have not ended."""
        children, self._children = self._children, []
        for _, to_child, _, answers in children:
            to_child.close()
            answers.close()
        for child, *_ in children:
            end_reader(child)


def _serve(read: ReadBlock, seed: int | None, theirs: int, back: int) -> None:
    """In a child: blocks in, encoded rows out, until there are no more."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    hashed = InputHash(seed) if seed is not None else None
    with os.fdopen(theirs, "rb", buffering=0) as blocks, os.fdopen(back, "wb", buffering=0) as answers:
        take = _exactly(blocks)
        while len(head := take(_HEAD)) == _HEAD:
            line, size = (int.from_bytes(head[at : at + 8], "little") for at in (0, 8))
            found: dict[int, list[tuple[str, str]]] = {}
            bad: list[int] = []

            def keep(problem: Problem, found: dict[int, list[tuple[str, str]]] = found) -> None:
                found.setdefault(problem.line, []).append((problem.field, problem.rule))

            rows = read(Block(line, take(size)), ProblemLog(keep))
            if rows is None:
                _write_all(answers, framed(Doubtful()))
                continue
            bad = list(found)
            hashes = hashed.of(rows) if hashed else [0] * len(rows)
            told = [(at, "", found[at]) for at in bad]
            _write_all(answers, framed(Encoded(encoded(rows, hashes), told)))


def _exactly(pipe: BinaryIO) -> Callable[[int], bytes]:
    """Reads so many bytes from a pipe, fewer only at its end."""

    def read(size: int) -> bytes:
        parts = []
        while size and (part := pipe.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    return read


def _write_all(pipe: BinaryIO, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]
