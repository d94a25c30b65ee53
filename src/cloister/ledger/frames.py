"""The journal's frames: one frame is one durable write, of one or more entries.

    magic "CLJ1" | body length u32 | first index u64 | count u32 | CRC-32 of these 20 bytes
    body: each entry behind its length u16
    SHA-256 over the digest before, the header and the body | 0xA5

All big-endian. The digest before the first frame of a file is a seed that names the log. A frame is
written only when the one before it is durable, so only the last can be torn, and since files start
out as zeros and no sector of a whole frame is all zeros, a torn frame can be told from a damaged one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cloister.errors import Tampered
from cloister.ledger.tiles import unpack

_HEADER = struct.Struct(">4sIQI")
_CRC = struct.Struct(">I")
HEADER = _HEADER.size + _CRC.size
TRAILER = 33
OVERHEAD = HEADER + TRAILER
_MAGIC = b"CLJ1"
_END = b"\xa5"
_SECTOR = 512


def seed(origin: str) -> bytes:
    return sha256(b"cloister ledger journal\n" + origin.encode()).digest()


@dataclass(frozen=True, slots=True)
class Frame:
    """Entries [first, first + len(entries)) as found in a file; `stop` is the offset behind the frame."""

    first: int
    entries: tuple[bytes, ...]
    digest: bytes
    stop: int


def frame(before: bytes, first: int, records: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The bytes of a frame of records (entries behind their lengths), and its digest."""
    body = b"".join(records)
    fixed = _HEADER.pack(_MAGIC, len(body), first, len(records))
    header = fixed + _CRC.pack(zlib.crc32(fixed))
    digest = sha256(before + header + body).digest()
    return b"".join((header, body, digest, _END)), digest


def read_frames(path: Path, data: bytes, origin: str) -> Iterator[Frame]:
    """The frames of a file from its start. A torn last frame ends the walk.

    Raises:
        Tampered: what follows the last good frame is neither empty nor a torn write.
    """
    before = seed(origin)
    offset = 0
    while found := _frame_at(data, offset, before):
        yield found
        before, offset = found.digest, found.stop
    if not _is_empty(data, offset) and not _is_torn(data, offset):
        raise Tampered(
            f"The journal is damaged at byte {offset}.",
            where=str(path),
            remedy="Restore the ledger from a copy that verifies.",
        )


def _header_at(data: bytes, offset: int) -> tuple[int, int, int] | None:
    """(body length, first index, count) where a sound header stands."""
    header = data[offset : offset + HEADER]
    if len(header) < HEADER or not header.startswith(_MAGIC):
        return None
    fixed = header[: _HEADER.size]
    if _CRC.pack(zlib.crc32(fixed)) != header[_HEADER.size :]:
        return None
    _, length, first, count = _HEADER.unpack(fixed)
    return length, first, count


def _frame_at(data: bytes, offset: int, before: bytes) -> Frame | None:
    header = _header_at(data, offset)
    if header is None:
        return None
    length, first, count = header
    stop = offset + OVERHEAD + length
    body_end = stop - TRAILER
    if data[body_end:stop] != sha256(before + data[offset:body_end]).digest() + _END:
        return None
    entries = unpack(data[offset + HEADER : body_end])
    if entries is None or len(entries) != count or not count:
        return None
    return Frame(first, tuple(entries), data[stop - TRAILER : stop - 1], stop)


def _is_empty(data: bytes, offset: int) -> bool:
    return not data[offset:].strip(b"\x00")


def _is_torn(data: bytes, offset: int) -> bool:
    """Whether a write at `offset` that reached the disk in part explains what stands there."""
    following = data.find(_MAGIC, offset + 1)
    while following >= 0:
        if _header_at(data, following) is not None:
            return False  # a frame behind it: this one was durable once
        following = data.find(_MAGIC, following + 1)
    header = _header_at(data, offset)
    if header is None:
        stop = len(data.rstrip(b"\x00"))
        header_part = data[offset : offset + HEADER]
        if len(header_part) < HEADER or stop < offset + HEADER:
            return True  # cut inside the header
        boundary = -(-(offset + 1) // _SECTOR) * _SECTOR
        first_part = data[offset : min(boundary, offset + HEADER)]
        second_part = data[boundary : offset + HEADER]
        return not first_part.strip(b"\x00") or (bool(second_part) and not second_part.strip(b"\x00"))
    stop = offset + OVERHEAD + header[0]
    if stop > len(data) or data[stop - 1] == 0:
        return True
    start = offset
    while start < stop:
        boundary = min((start // _SECTOR + 1) * _SECTOR, stop)
        if not data[start:boundary].strip(b"\x00"):
            return True
        start = boundary
    return False
