"""The header of a safetensors file, held to every rule of the format, in bounded memory.

The rules are those of the format's own text (github.com/huggingface/safetensors, README, 'Format') and
of its reference parser. Reads bytes it is given; knows no files, no torch and no models.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from cloister.errors import InvalidInput

MAX_HEADER = 16 << 20
MAX_TENSORS = 100_000
MAX_NAME = 512
MAX_DIMENSIONS = 16
PREFIX = struct.Struct("<Q")

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
}


class TensorInfo(msgspec.Struct, frozen=True):
    """Where a tensor lies: `begin` and `end` count from the first byte after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


class Header(msgspec.Struct, frozen=True):
    """A checked header. `data_start` is the offset of the first tensor byte in the file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int


def header_size(prefix: bytes, file_size: int, where: str) -> int:
    """Bytes of JSON after the eight-byte prefix.

    Raises:
        InvalidInput: there is no room for it in the file, or it is larger than `MAX_HEADER`.
    """
    if len(prefix) < PREFIX.size:
        raise _bad("too short for a safetensors file", where)
    size: int = PREFIX.unpack(prefix[: PREFIX.size])[0]
    if size < 2 or size > file_size - PREFIX.size:
        kind = foreign_kind(prefix)
        raise _bad(f"this is {kind}, not safetensors" if kind else "the header does not fit the file", where)
    if size > MAX_HEADER:
        raise _bad(f"the header is larger than {MAX_HEADER} bytes", where)
    return size


def foreign_kind(start: bytes) -> str | None:
    """What a file that is no safetensors seems to be, by its first bytes."""
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
    signatures = {
        b"PK\x03\x04": "a zip file (a PyTorch pickle checkpoint?)",
        b"GGUF": "a GGUF file",
        b"\x89HDF": "an HDF5 file",
        b"version ": "a Git LFS pointer",
        b"<!DOCTYP": "a web page",
        b"\x1f\x8b": "gzip data",
    }
    return next((kind for mark, kind in signatures.items() if start.startswith(mark)), None)


def parse_header(data: bytes, file_size: int, where: str) -> Header:
    """Check the JSON of a header (without its prefix) against the size of the whole file.

    Raises:
        InvalidInput: a rule of the format is broken; the message says which and at which tensor.
    """
    if data[:1] != b"{":
        raise _bad("the header does not begin with an object", where)
    try:
        text = data.decode()
        document = _DECODER.decode(text.rstrip(" "))
    except _DuplicateKeyError:
        raise _bad("the header has a key twice", where) from None
    except (ValueError, RecursionError):
        raise _bad("the header is not valid JSON", where) from None
    if not isinstance(document, dict):
        raise _bad("the header is no object", where)
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad("the header's metadata must be texts", where)
    if len(document) > MAX_TENSORS:
        raise _bad(f"more than {MAX_TENSORS} tensors", where)
    tensors = {}
    for place, (name, value) in enumerate(document.items(), 1):
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise _bad(f"tensor {place} has no usable name", where)
        tensors[name] = _tensor(name, value, where)
    data_start = PREFIX.size + len(data)
    _check_layout(tensors, file_size - data_start, where)
    return Header(tensors, metadata, data_start)


def _tensor(name: str, value: Any, where: str) -> TensorInfo:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"tensor `{name}` must have dtype, shape and data_offsets, and nothing else", where)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _bad(f"tensor `{name}` has an unknown dtype", where)
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _bad(f"tensor `{name}` has a shape that is none", where)
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(f"tensor `{name}` has offsets that are none", where)
    info = TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])
    bits = info.elements * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != info.end - info.begin:
        raise _bad(f"tensor `{name}` takes a different number of bytes than its shape says", where)
    return info


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_layout(tensors: Mapping[str, TensorInfo], room: int, where: str) -> None:
    """Tensors lie end to end from 0 to the end of the file: no hole, no overlap, nothing behind."""
    at = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin < at:
            raise _bad(f"tensor `{name}` overlaps another", where)
        if info.begin > at:
            raise _bad(f"there is a hole before tensor `{name}`", where)
        at = info.end
    if at > room:
        raise _bad("the file is cut off: tensors reach past its end", where)
    if at < room:
        raise _bad("there are bytes behind the last tensor", where)


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _DuplicateKeyError
    return value


def _whole(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else -1


def _no_constant(_: str) -> Any:
    raise ValueError("no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_constant=_no_constant)


def _bad(rule: str, where: str) -> InvalidInput:
    return InvalidInput(rule, where=where, remedy="Fetch or convert the file again.")
