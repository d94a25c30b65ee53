"""Unpacking gzip and Zstandard as they are read, in memory bounded by one window, and bombs refused.

Knows the two forms and how far a source has been read; it does not know what is inside.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol

from cloister.datasets.problems import Unreadable

ZSTD = b"\x28\xb5\x2f\xfd"
PACKINGS = {b"\x1f\x8b": "gzip", ZSTD: "zstd"}
"""First bytes, and what they are of."""
MAX_WINDOW = 1 << 27
"""What a Zstandard frame may make its reader remember: 128 MiB, as much as `zstd --long` asks for."""
MAX_EXPANSION = 250
"""How many bytes a packed byte may become, past the first `FREE_BYTES`. Text packs 3 to 20 fold."""
FREE_BYTES = 64 << 20
_CHUNK = 1 << 18
_MAX_BLOCK = 3 + (1 << 17) + 4
_REMEDY = "Unpack it first, if it is meant to be so, and import what comes out."


class Expansion:
    """How much came out of how much, and the limit on it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.packed = 0
        self.unpacked = 0

    def check(self) -> None:
        """Raises Unreadable where more came out than any honest source holds."""
        if self.unpacked > FREE_BYTES + MAX_EXPANSION * self.packed:
            raise Unreadable(f"{self._what} expands more than {MAX_EXPANSION}-fold", remedy=_REMEDY)

    @property
    def ratio(self) -> float:
        """Bytes that came out for each byte that went in."""
        return self.unpacked / self.packed if self.packed else 1.0


class Readable(Protocol):
    """A source of bytes, read once."""

    def read(self, size: int, /) -> bytes: ...


class Unpacked:
    """What is inside a packed source, read once. Raises Unreadable where it is damaged or cut off."""

    def __init__(self, source: Readable, packing: str) -> None:
        self.packing = packing
        self.expansion = Expansion(f"the {packing} data")
        packed = _Counted(source, self.expansion)
        self._inside = _Gzip(packed) if packing == "gzip" else _Zstd(packed)

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        data = self._inside.read(size)
        self.expansion.unpacked += len(data)
        self.expansion.check()
        return data


class _Counted:
    """A source that says how much was read of it."""

    def __init__(self, source: Readable, expansion: Expansion) -> None:
        self._source = source
        self._expansion = expansion

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._expansion.packed += len(data)
        return data


class _Gzip:
    """One or more members after one another; zeros after the last one are padding."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._left = b""
        self._member = zlib.decompressobj(31)
        self._inside = False

    def read(self, size: int, /) -> bytes:
        while True:
            if not self._inside:
                self._left = self._left.lstrip(b"\0")
            ended = not self._left
            if ended:
                self._left = self._source.read(_CHUNK)
                if self._left and not self._inside:
                    continue
            if not self._left and not self._inside:
                return b""
            self._inside = True
            try:
                out = self._member.decompress(self._left, size)
            except zlib.error:
                raise Unreadable("the gzip data is damaged") from None
            if ended and not self._left and not out:
                raise Unreadable("the gzip data is cut off")
            self._left = self._member.unconsumed_tail
            if self._member.eof:
                self._left = self._member.unused_data
                self._member = zlib.decompressobj(31)
                self._inside = False
            if out:
                return out


class _Zstd:
    """One or more frames after one another, taken apart block by block (RFC 8878, 3.1), so that no more than one
    block of at most 128 KiB comes out at a time, and a cut shows."""

    def __init__(self, source: Readable) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._source = source
        self._left = b""
        self._frame: Any = None
        self._tail = 0
        self._ready = b""

    def read(self, size: int, /) -> bytes:
        while not self._ready:
            try:
                if self._frame is None:
                    if not self._begin():
                        return b""
                else:
                    self._block()
            except self._error as error:
                if "memory" in str(error):
                    raise Unreadable(
                        f"the zstd data asks for a window of more than {MAX_WINDOW >> 20} MiB",
                        remedy="Pack it again without --long or --ultra, or unpack it first.",
                    ) from None
                raise Unreadable("the zstd data is damaged") from None
        found, self._ready = self._ready[:size], self._ready[size:]
        return found

    def _begin(self) -> bool:
        """Read the header of the next frame, if there is one."""
        if not self._left and not self._fill(1):
            return False
        magic = self._need(4)
        if magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5:  # a frame to be skipped
            self._skip(8 + int.from_bytes(self._need(8)[4:], "little"))
            return True
        if magic != ZSTD:
            raise Unreadable("the zstd data is damaged")
        flags = self._need(5)[4]
        single = flags >> 5 & 1
        length = 5 + (not single) + (0, 1, 2, 4)[flags & 3] + ((1 if single else 0), 2, 4, 8)[flags >> 6]
        self._tail = 4 * (flags >> 2 & 1)
        self._frame = self._decoder.decompressobj()
        self._ready = self._frame.decompress(self._take(length))
        return True

    def _block(self) -> None:
        header = int.from_bytes(self._need(3), "little")
        last, kind = header & 1, header >> 1 & 3
        length = 3 + (1 if kind == 1 else header >> 3) + self._tail * last
        if length > _MAX_BLOCK or kind == 3:
            raise Unreadable("the zstd data is damaged")
        self._ready = self._frame.decompress(self._take(length))
        if last:
            self._frame = None

    def _fill(self, size: int) -> bool:
        while len(self._left) < size:
            data = self._source.read(_CHUNK)
            if not data:
                return False
            self._left += data
        return True

    def _need(self, size: int) -> bytes:
        """The next bytes, not taken."""
        if not self._fill(size):
            raise Unreadable("the zstd data is cut off")
        return self._left[:size]

    def _take(self, size: int) -> bytes:
        found = self._need(size)
        self._left = self._left[size:]
        return found

    def _skip(self, size: int) -> None:
        while size > len(self._left):
            size -= len(self._left)
            self._left = b""
            self._need(1)
        self._left = self._left[size:]
