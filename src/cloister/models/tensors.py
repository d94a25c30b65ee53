"""Safetensors, read and written as a stream: from and to sealed or plain files, tensor by tensor.

A tensor's bytes are decrypted straight into the memory that it then lives in; nothing is held but the
tensors being handed over. Knows neither architectures nor adapters: names, dtypes, shapes and bytes.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch

from cloister.errors import InvalidInput, NotFound, Tampered
from cloister.models.files import Files, weight_files
from cloister.models.safetensors_header import PREFIX, header_size, parse_header
from cloister.vault import Reader

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_SLICE = 8 << 20
_PAGE = 4096


class Sink(Protocol):
    """Where bytes go: a `vault.SealedWriter`, or what `vault.ObjectWriter.create` returns."""

    def write(self, data: Any, /) -> Any: ...


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its numbers."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Place:
    spec: TensorSpec
    file: str
    offset: int


class SafetensorsReader(AbstractContextManager["SafetensorsReader"]):
    """The tensors of one or several safetensors files, in the order in which they lie there.

    Args:
        readers: the files by name (names only serve messages).
        threads: how many threads decrypt one large tensor together.

    Raises:
        InvalidInput: a header that is not a safetensors header, or does not fit its file.
    """

    def __init__(self, readers: Mapping[str, Reader], *, threads: int = 2) -> None:
        self._readers = dict(readers)
        self._places: dict[str, _Place] = {}
        self.metadata: dict[str, str] = {}
        for file, reader in self._readers.items():
            places, metadata = _read_header(file, reader)
            for place in places:
                if place.spec.name in self._places:
                    raise Tampered(f"tensor {place.spec.name!r} is in two files", where=file)
                self._places[place.spec.name] = place
            self.metadata.update(metadata)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="tensors")
        self._threads = threads

    @classmethod
    def of(cls, files: Files, names: Iterable[str] | None = None, *, threads: int = 2) -> SafetensorsReader:
        """Opens `names` of `files`, or every weight file that belongs to the model there."""
        return cls({name: files.open(name) for name in names or weight_files(files)}, threads=threads)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(place.spec for place in self._places.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(spec.nbytes for spec in self.specs)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def info(self, name: str) -> TensorSpec:
        """dtype and shape of `name`. Raises `NotFound`."""
        return self._place(name).spec

    def tensor(self, name: str) -> torch.Tensor:
        """A new tensor in CPU memory of its own."""
        spec = self.info(name)
        raw = torch.empty(spec.nbytes, dtype=torch.uint8)
        self._fill(self._place(name), raw)
        return raw.view(spec.dtype).reshape(spec.shape)

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Fills `out`, a contiguous CPU tensor of exactly the stored dtype and shape."""
        spec = self.info(name)
        if out.dtype != spec.dtype or tuple(out.shape) != spec.shape or not out.is_contiguous():
            raise ValueError("the tensor to fill differs from the stored one in dtype, shape or layout")
        self._fill(self._place(name), out.reshape(-1).view(torch.uint8))

    def stream(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) one after the other, the next one read ahead while this one is used.

        Tensors that are let go of before the next but one is asked for leave their memory to later
        ones, so that it stays at a few of the largest, and the kernel need not map and clear new pages
        for each, which would take as long as decrypting. Those that are kept stay as they are.
        """
        wanted = self.names if names is None else tuple(names)
        memory = _Reused()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as ahead:
            pending = ahead.submit(self._next, wanted[0], memory) if wanted else None
            for position, name in enumerate(wanted, 1):
                assert pending is not None
                tensor = pending.result()
                following = wanted[position] if position < len(wanted) else None
                pending = None if following is None else ahead.submit(self._next, following, memory)
                yield name, tensor
                del tensor

    def _next(self, name: str, memory: _Reused) -> torch.Tensor:
        spec = self.info(name)
        raw = memory.take(spec.nbytes)
        self._fill(self._place(name), raw)
        return raw.view(spec.dtype).reshape(spec.shape)

    def close(self) -> None:
        self._pool.shutdown()
        for reader in self._readers.values():
            reader.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, name: str) -> _Place:
        try:
            return self._places[name]
        except KeyError:
            raise NotFound(f"no tensor {name!r}", where=", ".join(self._readers)) from None

    def _fill(self, place: _Place, raw: torch.Tensor) -> None:
        buffer = raw.numpy().data
        reader, total = self._readers[place.file], raw.numel()
        if total <= _SLICE or self._threads == 1:
            _read_exactly(reader, place, 0, buffer)
            return
        step = -(-total // self._threads)
        parts = [
            self._pool.submit(_read_exactly, reader, place, start, buffer[start : start + step])
            for start in range(0, total, step)
        ]
        for part in parts:
            part.result()


class _Reused:
    """Memory for tensors, each of its own size, given again once nothing refers to it any more."""

    _KNOWN = 4

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def take(self, count: int) -> torch.Tensor:
        """`count` bytes, not cleared."""
        if count == 0:
            return torch.empty(0, dtype=torch.uint8)
        for index in range(len(self._buffers)):
            # Held by the list and by the call: no tensor lies in it.
            free = sys.getrefcount(self._buffers[index]) == 2
            if free and count <= len(self._buffers[index]) <= 2 * count + _PAGE:
                return torch.frombuffer(self._buffers[index], dtype=torch.uint8, count=count)
        if len(self._buffers) == self._KNOWN:
            del self._buffers[0]
        self._buffers.append(bytearray(-(-count // _PAGE) * _PAGE))
        return torch.frombuffer(self._buffers[-1], dtype=torch.uint8, count=count)


class SafetensorsWriter:
    """Writes one safetensors file to `sink` as a stream.

    The header stands first in the file, so what will come is told at the start; `order` is how the
    tensors must then come: as given, those of wider dtypes first, which keeps every tensor aligned.
    Does not close `sink`.
    """

    def __init__(
        self, sink: Sink, specs: Sequence[TensorSpec], *, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.order = tuple(sorted(specs, key=lambda spec: -spec.dtype.itemsize))
        self._sink = sink
        self._next = 0
        sink.write(_header(self.order, metadata or {"format": "pt"}))

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """The next tensor of `order`."""
        spec = self.order[self._next] if self._next < len(self.order) else None
        if spec is None or spec.name != name:
            raise ValueError(f"tensor {name!r} is out of order")
        if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
            raise ValueError(f"tensor {name!r} is not what was announced")
        buffer = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(buffer), _SLICE):
            self._sink.write(buffer[start : start + _SLICE])
        self._next += 1

    def finish(self) -> None:
        """Checks that nothing announced is missing."""
        if self._next != len(self.order):
            raise ValueError(f"{len(self.order) - self._next} announced tensors were never written")


def write_tensors(sink: Sink, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes tensors that are all in memory already."""
    specs = [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    writer = SafetensorsWriter(sink, specs)
    for spec in writer.order:
        writer.write(spec.name, tensors[spec.name])
    writer.finish()


def _read_exactly(reader: Reader, place: _Place, start: int, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = reader.read_into(place.offset + start + done, buffer[done:])
        if count <= 0:
            raise Tampered(f"tensor {place.spec.name!r} is cut off", where=place.file)
        done += count


def _header(order: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for spec in order:
        if spec.name in entries:
            raise ValueError(f"tensor {spec.name!r} is announced twice")
        end = offset + spec.nbytes
        entries[spec.name] = {
            "dtype": _CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_header(file: str, reader: Reader) -> tuple[list[_Place], dict[str, str]]:
    size = header_size(reader.read(0, PREFIX.size), reader.size, file)
    header = parse_header(reader.read(PREFIX.size, size), reader.size, file)
    places = []
    for name, info in sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.dtype not in DTYPES:
            raise InvalidInput(f"tensor {name!r} is of a dtype that is not supported", where=file)
        spec = TensorSpec(name, DTYPES[info.dtype], info.shape)
        places.append(_Place(spec, file, header.data_start + info.begin))
    return places, dict(header.metadata)
