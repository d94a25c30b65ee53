"""Rows with their numbers and sides, streamed. Knows the stored form."""

from __future__ import annotations

from collections.abc import Iterator

from cloister.datasets.canonical import SPLIT
from cloister.datasets.reader import DatasetReader
from cloister.datasets.rows import Row


def sided_rows(dataset: DatasetReader) -> Iterator[tuple[int, Row, int]]:
    """Number, row and side of every row, in order; a few thousand at a time are in memory."""
    with dataset.open(SPLIT) as file:
        sides, begin = b"", 0
        for number, row in enumerate(dataset.rows("all")):
            if number - begin >= len(sides):
                begin, sides = number, bytes(file.read(number, min(1 << 16, len(dataset) - number)))
            yield number, row, sides[number - begin]
