"""DatasetReader: a stored dataset as rows by number, its sides and its labels.

Rows and index are read by random access, so memory stays the same however long the dataset is. Knows
the canonical form; it does not know tokenizers or training.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import compress, count
from pathlib import Path
from typing import Literal

import msgspec

from cloister.datasets.canonical import INDEX, META, ROWS, SPLIT, DatasetMeta
from cloister.datasets.rows import Row, decode_row
from cloister.datasets.split import HOLDOUT, TRAIN
from cloister.errors import InvalidInput, Tampered
from cloister.vault import ObjectReader

Side = Literal["train", "holdout", "all"]
_OFFSETS = struct.Struct("<QQ")
_BATCH = 4096


class DatasetReader(ObjectReader):
    """An opened dataset object. `len(reader)`, `reader[i]`, `reader.rows("holdout")`.

    Args are those of `ObjectReader`. Use as a context manager, or `close` it.

    Raises:
        InvalidInput: the object is no dataset.
        Tampered: a file is not what the manifest says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: bytes | None,
        manifest_sha256: str | None = None,
        object_id: str | None = None,
    ) -> None:
        super().__init__(folder, key=key, manifest_sha256=manifest_sha256, object_id=object_id)
        if self.manifest.kind != "dataset":
            raise InvalidInput("this object is not a dataset", where=self.manifest.object_id)
        with self.open(META) as file:
            self.meta = _meta(file.read(0, file.size), folder)
        self._rows = self.open(ROWS)
        self._index = self.open(INDEX)
        with self.open(SPLIT) as file:
            self._split_size = file.size
        if self._index.size != 8 * (self.meta.rows + 1) or self._split_size != self.meta.rows:
            raise Tampered("the files of this dataset do not belong together", where=str(folder))

    def close(self) -> None:
        """Closes the files and drops the key."""
        self._rows.close()
        self._index.close()
        super().close()

    def __len__(self) -> int:
        return self.meta.rows

    def __getitem__(self, number: int) -> Row:
        """Row `number`, from 0; negative numbers count from the end."""
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        begin, end = _OFFSETS.unpack(self._index.read(8 * number, 16))
        return self._decoded(self._rows.read(begin, end - begin))

    def indices(self, split: Side = "all") -> Sequence[int]:
        """Row numbers of one side in order; four bytes a row (eight past 2^32 rows), none for all of them."""
        if split == "all":
            return range(len(self))
        wanted = HOLDOUT if split == "holdout" else TRAIN
        table = bytes([side == wanted for side in range(256)])
        numbers = array("I" if len(self) <= 1 << 32 else "Q")
        first = 0
        with self.open(SPLIT) as file:
            for sides in file.stream():
                chosen = bytes(sides).translate(table)
                numbers.extend(compress(count(first), chosen))
                first += len(chosen)
        return numbers

    def rows(self, split: Side = "all") -> Iterator[Row]:
        """All rows of one side in order, read ahead some thousand at a time."""
        wanted = {"all": b"\1\1", "train": b"\1\0", "holdout": b"\0\1"}[split]
        with self.open(SPLIT) as file:
            for first in range(0, len(self), _BATCH):
                amount = min(_BATCH, len(self) - first)
                sides = file.read(first, amount)
                ends = array("Q", self._index.read(8 * first, 8 * (amount + 1)))
                if sys.byteorder != "little":
                    ends.byteswap()
                for position, side in enumerate(sides):
                    if wanted[side]:
                        begin = ends[position]
                        yield self._decoded(self._rows.read(begin, ends[position + 1] - begin))

    def labels(self) -> dict[str, int]:
        """Rows by label, most frequent first; empty where the task is no classification."""
        return dict(sorted(self.meta.labels.items(), key=lambda item: (-item[1], item[0])))

    def _decoded(self, data: bytes) -> Row:
        try:
            return decode_row(data)
        except msgspec.MsgspecError:
            raise Tampered("a row does not decode", where=f"{self.manifest.object_id}/{ROWS}") from None


def _meta(data: bytes, folder: Path) -> DatasetMeta:
    try:
        return msgspec.json.decode(data, type=DatasetMeta)
    except msgspec.MsgspecError:
        raise Tampered("the metadata does not decode", where=str(folder / META)) from None
