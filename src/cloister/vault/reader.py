"""Reading one file, sealed or in the open, from anywhere, in constant memory, by several threads.

One pass from the start is `cryptography.cobblestone`'s; random access is ours, chunks decrypted in
place into the caller's buffer. Knows nothing of objects: key and context come in as bytes.
"""

from __future__ import annotations

import hmac
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.errors import Conflict, InvalidInput, Tampered
from cloister.vault.files import as_cloister_error, open_regular
from cloister.vault.format import CHUNK, HEADER, SALT, STRIDE, TAG, check_key, derive_file_keys, plain_size

if TYPE_CHECKING:
    from typing_extensions import Buffer

RUN = 16
"""Chunks read from disk at a time for a long read: what fits a core's own cache."""

READ_AHEAD = 8 << 20
"""Bytes that the system is asked to have in memory ahead of a stream."""


class Reader(Protocol):
    """A file to read from anywhere. May be shared by threads; not closed while one reads."""

    @property
    def path(self) -> Path: ...
    @property
    def size(self) -> int:
        """Bytes of content."""

    def read_into(self, offset: int, buffer: Buffer) -> int: ...
    def read(self, offset: int, count: int) -> bytes: ...
    def stream(self, buffer_size: int = 1 << 20) -> Iterator[memoryview]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _FileReader:
    """What both readers share: the descriptor, its size on disk, and exact reads from it."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = -1
        if descriptor is None:
            descriptor = open_regular(path.parent, path.name)
        self._descriptor = descriptor
        self.sealed_size = os.fstat(descriptor).st_size
        self.size = self.sealed_size

    def read_into(self, offset: int, buffer: Buffer) -> int:
        """Fills `buffer` (writable, contiguous) from `offset`; returns how many bytes there were.

        Fewer than asked for only at the end of the file. Raises Tampered, naming the file; then the
        buffer's content means nothing.
        """
        raise NotImplementedError

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only at the end of the file."""
        if count < 0:
            raise InvalidInput("a count of bytes is not negative", where=str(self.path))
        buffer = bytearray(max(0, min(count, self.size - offset)))
        self.read_into(offset, buffer)
        return bytes(buffer)

    def close(self) -> None:
        """Closes the file. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def _window(self, offset: int, buffer: Buffer) -> memoryview:
        """The part of `buffer` that there is content for."""
        if offset < 0:
            raise InvalidInput("an offset is not negative", where=str(self.path))
        if self._descriptor < 0:
            raise Conflict("already closed", where=str(self.path))
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise InvalidInput("the buffer cannot be written to", where=str(self.path))
        return view[: max(0, min(len(view), self.size - offset))]

    def _fill(self, position: int, view: memoryview) -> None:
        """Reads exactly `view` from `position` on disk; a file that has become shorter is Tampered."""
        try:
            count = os.preadv(self._descriptor, [view], position)
            while count < len(view):
                more = os.preadv(self._descriptor, [view[count:]], position + count)
                if more == 0:
                    raise self._damaged("it is shorter than when it was opened")
                count += more
        except OSError as error:
            raise as_cloister_error(error, self.path) from None

    def _damaged(self, what: str) -> Tampered:
        return Tampered(
            f"not what was written: {what}", where=str(self.path), remedy="Restore it from a backup."
        )


class SealedReader(_FileReader):
    """Reads one sealed file. The commitment and the last chunk, and so the length, are checked here.

    Args:
        path: the file; never a symbolic link.
        key: the object version's data key, 32 bytes.
        context: where the file belongs (`object_context`).
        descriptor: the file already open for reading; it is then this reader's to close.

    Raises NotFound, or Tampered where the file was cut, changed, moved or sealed with another key.
    """

    def __init__(self, path: Path, key: bytes, context: bytes, *, descriptor: int | None = None) -> None:
        super().__init__(path, descriptor)
        try:
            self._open(check_key(key), context)
        except BaseException:
            self.close()
            raise

    def _open(self, key: bytes, context: bytes) -> None:
        size = plain_size(self.sealed_size)
        if size is None:
            raise self._damaged("no sealed file has this length")
        self.size = size
        header = bytearray(HEADER)
        self._fill(0, memoryview(header))
        self.header = bytes(header)
        keys = derive_file_keys(key, self.header[:SALT], context)
        if not hmac.compare_digest(keys.commitment, self.header[SALT:]):
            raise self._damaged("its header does not fit this key and this place")
        self._key, self._context = key, context
        self._decrypt_into = AESGCM(keys.aead_key).decrypt_into
        self._base_nonce = int.from_bytes(keys.base_nonce, "big")
        self._scratches: list[_Scratch] = []
        self._last: tuple[int, memoryview] | None = None
        self._chunk(size // CHUNK)

    def read_into(self, offset: int, buffer: Buffer) -> int:
        view = self._window(offset, buffer)
        total = len(view)
        number, skip = divmod(offset, CHUNK)
        done = 0
        if total and (skip or total < CHUNK):
            done = min(total, CHUNK - skip)
            view[:done] = self._chunk(number)[skip : skip + done]
            number += 1
        full = (total - done) // CHUNK
        if full:
            self._full_chunks(number, full, view[done : done + full * CHUNK])
            done += full * CHUNK
            number += full
        if done < total:
            view[done:] = self._chunk(number)[: total - done]
        return total

    def stream(self, buffer_size: int = 1 << 20, *, read_ahead: bool = False) -> Iterator[memoryview]:
        """The content from start to end, in pieces of about `buffer_size` bytes.

        A piece is valid until the next one is asked for. The system is told to read ahead from disk;
        with `read_ahead` a second thread also copies the next pieces while one is decrypted, which
        pays where a core is idle. Memory: some `buffer_size`. Several streams may run at once.
        """
        if self._descriptor < 0:
            raise Conflict("already closed", where=str(self.path))
        decryptor = Cobblestone256Decryptor(self._key, self._context)
        plain = memoryview(bytearray(min(max(1, buffer_size // CHUNK), self.size // CHUNK + 1) * CHUNK))
        try:
            decryptor.update_into(self.header, plain)
            filled = 0
            for sealed in self._blocks(min(RUN * STRIDE, len(plain) // CHUNK * STRIDE), read_ahead):
                if filled + len(sealed) // STRIDE * CHUNK > len(plain):
                    yield plain[:filled]
                    filled = 0
                filled += decryptor.update_into(sealed, plain[filled:])
            if filled:
                yield plain[:filled]
            tail = decryptor.finalize()
            if tail:
                yield memoryview(tail)
        except InvalidTag:
            raise self._damaged("a chunk fails its check") from None
        finally:
            plain[:] = bytes(len(plain))

    def close(self) -> None:
        """Closes the file and drops keys and what was decrypted."""
        super().close()
        self._key = b""
        self._last = None
        self._scratches = []

    def _blocks(self, length: int, read_ahead: bool) -> Iterator[memoryview]:
        """The sealed bytes behind the header, `length` at a time, each valid until the next."""
        end = self.sealed_size
        starts = range(HEADER, end, length)
        ahead_of = min(3, len(starts)) if read_ahead else 0
        buffers = [memoryview(bytearray(min(length, end - HEADER))) for _ in range(ahead_of + 1)]

        def fill(turn: int) -> memoryview:
            view = buffers[turn % len(buffers)][: min(length, end - starts[turn])]
            self._will_need(starts[turn])
            self._fill(starts[turn], view)
            return view

        if not read_ahead:
            yield from map(fill, range(len(starts)))
            return
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as ahead:
            # While one buffer is in use, the others are being filled.
            pending = deque(ahead.submit(fill, turn) for turn in range(ahead_of))
            for turn in range(len(starts)):
                view = pending.popleft().result()
                if turn + ahead_of < len(starts):
                    pending.append(ahead.submit(fill, turn + ahead_of))
                yield view

    def _will_need(self, position: int) -> None:
        """Tells the system, once in a while, to read on from disk while this part is decrypted."""
        if (position - HEADER) % READ_AHEAD < RUN * STRIDE:
            with suppress(OSError):
                os.posix_fadvise(self._descriptor, position, 2 * READ_AHEAD, os.POSIX_FADV_WILLNEED)

    def _chunk(self, number: int) -> memoryview:
        """The plaintext of one chunk. The last one asked for is kept for its neighbours' sake."""
        last = self._last
        if last is not None and last[0] == number:
            return last[1]
        count = min(CHUNK, self.size - number * CHUNK)
        sealed = memoryview(bytearray(count + TAG))
        self._fill(HEADER + number * STRIDE, sealed)
        plain = memoryview(bytearray(count))
        try:
            self._decrypt_into((self._base_nonce ^ number).to_bytes(12, "big"), sealed, None, plain)
        except InvalidTag:
            raise self._damaged(f"chunk {number} fails its check") from None
        self._last = (number, plain)
        return plain

    def _full_chunks(self, number: int, count: int, out: memoryview) -> None:
        """Decrypts `count` full chunks from `number` on, each straight to its place in `out`."""
        scratch = self._borrow()
        decrypt_into, base = self._decrypt_into, self._base_nonce
        at = 0
        end = number + count
        try:
            while number < end:
                run = min(RUN, end - number)
                self._fill(
                    HEADER + number * STRIDE, scratch.whole if run == RUN else scratch.whole[: run * STRIDE]
                )
                for sealed in scratch.chunks[:run]:
                    decrypt_into((base ^ number).to_bytes(12, "big"), sealed, None, out[at : at + CHUNK])
                    at += CHUNK
                    number += 1
        except InvalidTag:
            raise self._damaged(f"chunk {number} fails its check") from None
        finally:
            self._scratches.append(scratch)

    def _borrow(self) -> _Scratch:
        try:
            return self._scratches.pop()
        except IndexError:
            return _Scratch()


class PlainReader(_FileReader):
    """Reads one file in the open, otherwise as `SealedReader` does."""

    def __init__(self, path: Path, *, descriptor: int | None = None) -> None:
        super().__init__(path, descriptor)

    def read_into(self, offset: int, buffer: Buffer) -> int:
        view = self._window(offset, buffer)
        if view:
            self._fill(offset, view)
        return len(view)

    def stream(self, buffer_size: int = 1 << 20) -> Iterator[memoryview]:
        """The content from start to end; a piece is valid until the next one is asked for."""
        buffer = memoryview(bytearray(max(1, min(buffer_size, self.size))))
        for at in range(0, self.size, len(buffer)):
            yield buffer[: self.read_into(at, buffer)]


class _Scratch:
    """Room for a run of sealed chunks, and a view of each."""

    __slots__ = ("chunks", "whole")

    def __init__(self) -> None:
        self.whole = memoryview(bytearray(RUN * STRIDE))
        self.chunks = [self.whole[i * STRIDE : (i + 1) * STRIDE] for i in range(RUN)]
