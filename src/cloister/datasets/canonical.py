"""The canonical form of a dataset: rows, their index, their split and what there is to know of them.

`rows.bin` holds MessagePack rows back to back, `index.bin` n+1 little-endian 64-bit offsets into it,
`split.bin` one byte a row (0 train, 1 hold-out), `meta.json` the rest. Knows rows and the object
writer; it does not know where the rows came from. Streams: memory is one batch.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from operator import sub
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import msgspec

from cloister.datasets.rows import Row, append_row, decode_row
from cloister.datasets.split import Splitter
from cloister.errors import InvalidInput

if TYPE_CHECKING:
    from typing_extensions import Buffer

ROWS, INDEX, SPLIT, META = "rows.bin", "index.bin", "split.bin", "meta.json"
MAX_LABELS = 10_000

Task = Literal["chat", "classification", "text"]


class DatasetMeta(msgspec.Struct, frozen=True):
    """What `meta.json` says. `labels` counts rows by label; label names are content, so it is sealed."""

    format: int
    source_format: str
    task: Task
    rows: int
    train_rows: int
    holdout_rows: int
    holdout: float
    seed: int
    labels: dict[str, int] = {}


class EncodedRows(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Rows as they are stored, back to back: 32-bit sizes and 64-bit hashes in this machine's byte order."""

    data: memoryview
    sizes: bytes
    hashes: bytes
    labels: dict[str, int]
    is_text: bool

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.sizes) // 4


class Sides(Protocol):
    """What gives rows their sides: a `Splitter`, or something that knows them already."""

    counts: list[int]

    def add(self, rows: list[Row]) -> bytes: ...

    def finish(self) -> bytes: ...


class Sink(Protocol):
    """A file that is being written."""

    def write(self, data: Buffer) -> object: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


class Files(Protocol):
    """Where the files of a dataset go: an `ObjectWriter`, or `Nowhere`."""

    def create(self, relpath: str) -> Sink: ...


class Nowhere:
    """Stands for an object's writer where rows are only tried: nothing is written."""

    def create(self, relpath: str) -> Self:
        return self

    def write(self, data: Buffer) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class DatasetWriter:
    """Appends rows to a new dataset object; use as a context manager, and `finish` inside it.

    `splitter` gives the sides where the hash of the input must not.
    """

    def __init__(
        self,
        writer: Files,
        *,
        holdout: float,
        seed: int,
        splitter: Sides | None = None,
    ) -> None:
        self._stack = ExitStack()
        self._writer = writer
        self._splitter = splitter or Splitter(holdout, seed)
        self._holdout = holdout
        self._seed = seed
        self._labels: dict[str, int] = {}
        self._is_text = False
        self._end = 0
        self.rows = 0

    def __enter__(self) -> DatasetWriter:
        with self._stack:
            self._rows = self._stack.enter_context(self._writer.create(ROWS))
            self._index = self._stack.enter_context(self._writer.create(INDEX))
            self._split = self._stack.enter_context(self._writer.create(SPLIT))
            self._index.write(_offsets([0]))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, rows: list[Row]) -> None:
        """Append rows in order.

        Raises:
            InvalidInput: there are more distinct labels than any classification has.
        """
        if rows:
            self._append(encoded(rows), self._splitter.add(rows))

    def add_encoded(self, some: EncodedRows) -> None:
        """As `add`, for rows that somebody has encoded and hashed already."""
        assert isinstance(self._splitter, Splitter)
        if some.sizes:
            self._append(some, self._splitter.add_hashed(array("Q", some.hashes)))

    def _append(self, some: EncodedRows, sides: bytes) -> None:
        ends = list(accumulate(array("I", some.sizes), initial=self._end))
        self._rows.write(some.data)
        self._index.write(_offsets(ends[1:]))
        self._end = ends[-1]
        self._split.write(sides)
        self.rows += len(ends) - 1
        self._is_text = self._is_text or some.is_text
        self._count_labels(some.labels)

    @property
    def _task(self) -> Task:
        return "classification" if self._labels else "text" if self._is_text else "chat"

    def finish(self, *, source_format: str) -> DatasetMeta:
        """Write what is left and the metadata; the files are closed when the context ends."""
        self._split.write(self._splitter.finish())
        train_rows, holdout_rows = self._splitter.counts
        meta = DatasetMeta(
            format=1,
            source_format=source_format,
            task=self._task,
            rows=self.rows,
            train_rows=train_rows,
            holdout_rows=holdout_rows,
            holdout=self._holdout,
            seed=self._seed,
            labels=self._labels,
        )
        with self._writer.create(META) as file:
            file.write(msgspec.json.encode(meta))
        return meta

    def _count_labels(self, found: dict[str, int]) -> None:
        labels = self._labels
        for label, count in found.items():
            labels[label] = labels.get(label, 0) + count
        if len(labels) > MAX_LABELS:
            raise InvalidInput(
                f"the label column holds more than {MAX_LABELS} different labels",
                remedy="Is it the label column? For free text use an output column.",
            )


def encoded(rows: Sequence[Row], hashes: Sequence[int] = ()) -> EncodedRows:
    """Rows, with the hashes of their inputs where the split is not left to the writer."""
    data, ends = bytearray(), [0]
    for row in rows:
        append_row(row, data)
        ends.append(len(data))
    labels: dict[str, int] = {}
    if rows and rows[0].label is not None:
        for row in rows:
            if row.label is not None:
                labels[row.label] = labels.get(row.label, 0) + 1
    sizes = array("I", map(sub, ends[1:], ends)).tobytes()
    is_text = bool(rows) and rows[0].text is not None
    return EncodedRows(memoryview(data), sizes, array("Q", hashes).tobytes(), labels, is_text)


def decoded(some: EncodedRows) -> list[Row]:
    """The rows again, for whoever has to change them."""
    ends = list(accumulate(array("I", some.sizes), initial=0))
    return [decode_row(some.data[begin:end]) for begin, end in pairwise(ends)]


def _offsets(values: list[int]) -> bytes:
    numbers = array("Q", values)
    if sys.byteorder != "little":
        numbers.byteswap()
    return numbers.tobytes()
