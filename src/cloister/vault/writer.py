"""Writing one file, sealed or in the open: streamed, hashed on the way, whole or not at all.

Sealing is `cryptography.cobblestone`'s. Knows nothing of objects: key and context come in as bytes.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec
from cryptography.cobblestone import Cobblestone256Encryptor

from cloister.errors import Conflict
from cloister.vault.files import PartFile
from cloister.vault.format import check_key

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FileSeal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a finished file without its key.

    Attributes:
        path: relative to the object's folder (the file's name, where no object is involved).
        size: bytes of content.
        sealed_size: bytes on disk.
        sha256: of the bytes on disk, in hex.
        header: the first 56 bytes (salt and commitment) in hex; None for a file in the open.
    """

    path: str
    size: int
    sealed_size: int
    sha256: str
    header: str | None


class Writer(Protocol):
    """A file being written. `close` makes it appear; `abort`, or an exception in `with`, drops it."""

    @property
    def size(self) -> int:
        """Bytes of content so far."""

    def write(self, data: Buffer) -> int: ...
    def close(self) -> FileSeal: ...
    def abort(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _FileWriter:
    """What both writers share: the part file, the name in the seal, and how they end."""

    def __init__(self, path: Path, name: str | None) -> None:
        self.path = path
        self._name = name if name is not None else path.name
        self._size = 0
        self._seal: FileSeal | None = None
        self._part = PartFile(path)

    @property
    def size(self) -> int:
        """Bytes of content so far."""
        return self._size

    @property
    def seal(self) -> FileSeal | None:
        """The seal, once closed."""
        return self._seal

    def write(self, data: Buffer) -> int:
        """Appends `data`; returns its length in bytes. Raises OutOfSpace, having removed the file."""
        if not self._part.open:
            raise Conflict("already closed", where=str(self.path))
        view = memoryview(data).cast("B")
        try:
            self._append(view)
        except BaseException:
            self.abort()
            raise
        self._size += len(view)
        return len(view)

    def close(self) -> FileSeal:
        """Writes the end, syncs, and lets the file appear. A second call returns the same seal."""
        if self._seal is None:
            if not self._part.open:
                raise Conflict("already aborted", where=str(self.path))
            try:
                header = self._finish()
                digest = self._part.commit()
            except BaseException:
                self.abort()
                raise
            self._seal = FileSeal(self._name, self._size, self._part.size, digest, header)
            self._closed(self._seal)
        return self._seal

    def abort(self) -> None:
        """Drops the file. Does nothing after `close`."""
        self._part.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._part.open:
            self.close()

    def _append(self, view: memoryview) -> None:
        raise NotImplementedError

    def _finish(self) -> str | None:
        raise NotImplementedError

    def _closed(self, seal: FileSeal) -> None:
        """Told once, after the file has appeared."""


class SealedWriter(_FileWriter):
    """Writes one sealed file.

    Args:
        path: where it appears at `close`; until then it is `<path>.part`.
        key: the object version's data key, 32 bytes.
        context: where the file belongs (`object_context`).
        name: the path to put into the seal, where it is not just the file's name.
    """

    def __init__(self, path: Path, key: bytes, context: bytes, *, name: str | None = None) -> None:
        self._encryptor = Cobblestone256Encryptor(check_key(key), context)
        super().__init__(path, name)
        try:
            count = self._encryptor.update_into(b"", self._part.space)
            self._header = self._part.space[:count].hex()
            self._part.advance(count)
        except BaseException:
            self.abort()
            raise

    def _append(self, view: memoryview) -> None:
        part, encryptor = self._part, self._encryptor
        done, total = 0, len(view)
        while done < total:
            # Pending bytes and tags fit into the slack behind the block.
            step = min(total - done, part.room)
            part.advance(encryptor.update_into(view[done : done + step], part.space))
            done += step

    def _finish(self) -> str | None:
        tail = self._encryptor.finalize()
        self._part.space[: len(tail)] = tail
        self._part.advance(len(tail))
        return self._header


class PlainWriter(_FileWriter):
    """Writes one file in the open, otherwise as `SealedWriter` does: for base models."""

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        super().__init__(path, name)

    def _append(self, view: memoryview) -> None:
        part = self._part
        done, total = 0, len(view)
        while done < total:
            step = min(total - done, part.room)
            part.space[:step] = view[done : done + step]
            part.advance(step)
            done += step

    def _finish(self) -> str | None:
        return None
