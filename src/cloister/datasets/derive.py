"""A dataset out of others: rows chosen, repeats left out, some drawn, corrected, rid of personal data.

Two passes: the first marks the rows that are taken (a byte each), the second writes them. Knows rows; it does not
know who asked, nor what the new dataset is called.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from cloister.api import DeriveConfig, RowRange
from cloister.datasets.canonical import DatasetMeta, DatasetWriter
from cloister.datasets.corrections import Correction, corrected
from cloister.datasets.duplicates import NearFinder, content_hash
from cloister.datasets.forgetting import BATCH, KeptSides
from cloister.datasets.reader import DatasetReader
from cloister.datasets.rows import Row
from cloister.datasets.sides import sided_rows
from cloister.datasets.split import HOLDOUT, TRAIN
from cloister.errors import InvalidInput
from cloister.vault import ObjectWriter

if TYPE_CHECKING:
    from cloister.datasets.personal.replacing import RowRewriter

NEAR_MOST = 300_000
"""Rows among which near duplicates can be left out: more would not fit into memory that is bounded."""
MATCH_S = 2.0
"""So long may one pattern take for one text."""


@dataclass(frozen=True)
class Derived:
    """What came of it: rows that were read, not chosen, left out as repeats, not drawn, corrected, and left out by a
    correction."""

    meta: DatasetMeta
    read: int
    not_chosen: int
    repeats: int
    not_drawn: int
    corrected: int
    left_out: int


class Choice:
    """Whether a row is taken by what it is and says. Errors: InvalidInput for a pattern that is none, by its number."""

    def __init__(self, config: DeriveConfig) -> None:
        chosen = config.chosen
        self._config = config
        self._labels = frozenset(chosen.labels)
        self._groups = {name: frozenset(values) for name, values in chosen.groups.items()}
        self._matching = _compiled("matching", chosen.matching)
        self._not_matching = _compiled("not matching", chosen.not_matching)
        self._sized = config.min_characters > 0 or config.max_characters is not None

    def takes(self, number: int, row: Row, side: int, *, first: bool) -> bool:
        """`number` counts in the row's own dataset; ranges are about the `first` one."""
        config = self._config
        if config.side != "all" and side != (HOLDOUT if config.side == "holdout" else TRAIN):
            return False
        if first and config.rows and not _within(number, config.rows):
            return False
        if first and config.without and _within(number, config.without):
            return False
        if self._labels and row.label not in self._labels:
            return False
        if any(row.groups.get(name) not in values for name, values in self._groups.items()):
            return False
        if self._sized:
            size = row.characters
            if size < config.min_characters or size > (config.max_characters or size):
                return False
        return all(self._finds(n, p, number, row) for n, p in enumerate(self._matching, 1)) and not any(
            self._finds(n, p, number, row) for n, p in enumerate(self._not_matching, 1)
        )

    @staticmethod
    def _finds(place: int, pattern: regex.Pattern[str], number: int, row: Row) -> bool:
        try:
            return any(pattern.search(text, timeout=MATCH_S) is not None for text in row.texts())
        except TimeoutError:
            raise InvalidInput(
                f"pattern {place} takes more than {MATCH_S:g} s for row {number}",
                where="pattern",
                remedy="Write it so that it does not try the same text again and again.",
            ) from None


def derive(
    datasets: Sequence[DatasetReader],
    writer: ObjectWriter,
    config: DeriveConfig,
    *,
    corrections: Mapping[int, Correction] | None = None,
    rewriter: RowRewriter | None = None,
    progress: Callable[[int, int], None],
) -> Derived:
    """Write what is taken of `datasets`, in order, into a new object, which the caller finishes.

    Corrections are of the first dataset's rows. Of one dataset the rows keep their sides; those of several are split
    anew by the first one's share and seed, so that the same input never lands on both sides.

    Raises:
        InvalidInput: the datasets are of different tasks, nothing is left, rows are named that are not there, a
            correction is of a row that is not taken, or there are too many rows for what was asked.
    """
    meta = datasets[0].meta
    if any(other.meta.task != meta.task for other in datasets[1:]):
        raise InvalidInput(
            "the datasets are of different tasks",
            remedy="Merge classification with classification, chat with chat.",
        )
    _check_ranges(len(datasets[0]), config)
    total = sum(map(len, datasets))
    choice = Choice(config)
    taken = bytearray(total)
    for at, place, number, row, side in _all(datasets):
        if number % BATCH == 0:
            progress(at, 2 * total)
        taken[at] = choice.takes(number, row, side, first=place == 0)
    not_chosen = total - sum(taken)
    repeats = _leave_out_repeats(datasets, taken, config.dedupe) if config.dedupe else 0
    not_drawn = _draw(taken, config.sample, config.seed) if config.sample else 0
    kept = KeptSides() if len(datasets) == 1 else None
    changed = left_out = 0
    with DatasetWriter(writer, holdout=meta.holdout, seed=meta.seed, splitter=kept) as out:
        pending: list[Row] = []
        waiting = dict(corrections or {})
        for at, place, number, row, side in _all(datasets):
            if number % BATCH == 0:
                progress(total + at, 2 * total)
            if not taken[at]:
                continue
            correction = waiting.pop(number, None) if place == 0 else None
            if correction is not None and correction.leave_out:
                left_out += 1
                continue
            if correction is not None:
                changed += 1
                row = corrected(row, correction)
            pending.append(rewriter(row) if rewriter is not None else row)
            if kept is not None:
                kept.push(bytes([side]))
            if len(pending) == BATCH:
                out.add(pending)
                pending = []
        out.add(pending)
        progress(2 * total, 2 * total)
        if waiting:
            raise InvalidInput(
                f"{len(waiting)} corrections are of rows that are not taken, the first of row {min(waiting)}",
                where="corrections",
                remedy="Rows are numbered from 0, as they were before anything was left out.",
            )
        if not out.rows:
            raise InvalidInput("no row is left", remedy="Choose less strictly.")
        made = out.finish(source_format=meta.source_format)
    return Derived(made, total, not_chosen, repeats, not_drawn, changed, left_out)


def _all(datasets: Sequence[DatasetReader]) -> Iterator[tuple[int, int, int, Row, int]]:
    """Position among all, place of the dataset, number in it, row and side."""
    first = 0
    for place, dataset in enumerate(datasets):
        for number, row, side in sided_rows(dataset):
            yield first + number, place, number, row, side
        first += len(dataset)


def _leave_out_repeats(datasets: Sequence[DatasetReader], taken: bytearray, how: str) -> int:
    """Unmark what an earlier row that is taken equals, or nearly is. 8 bytes a row for equal ones."""
    import numpy as np

    before = sum(taken)
    contents = array("Q", bytes(8 * before))
    places = np.flatnonzero(np.frombuffer(taken, np.uint8))
    for order, (_, _, _, row, _) in enumerate(one for one in _all(datasets) if taken[one[0]]):
        contents[order] = content_hash(row)
    _, kept = np.unique(np.frombuffer(contents, np.uint64), return_index=True)
    mark = np.zeros(before, bool)
    mark[kept] = True
    for at in places[~mark].tolist():
        taken[at] = 0
    if how == "near":
        if sum(taken) > NEAR_MOST:
            raise InvalidInput(
                f"near duplicates are left out of at most {NEAR_MOST} rows, and here are {sum(taken)}",
                remedy="Choose fewer rows, or use `--dedupe exact`.",
            )
        finder = NearFinder()
        for at, _, _, row, _ in _all(datasets):
            if taken[at]:
                finder.add(at, row, TRAIN)
        for at in finder.find().numbers:
            taken[at] = 0
    return before - sum(taken)


def _draw(taken: bytearray, most: int, seed: int) -> int:
    """Unmark all but `most`, drawn by a seeded hash of their position."""
    key = str(seed).encode()[:64]
    before = sum(taken)
    if before <= most:
        return 0

    def draw(at: int) -> bytes:
        return hashlib.blake2b(at.to_bytes(8, "little"), digest_size=8, key=key).digest()

    drawn = set(heapq.nsmallest(most, (at for at, mark in enumerate(taken) if mark), key=draw))
    for at, mark in enumerate(taken):
        if mark and at not in drawn:
            taken[at] = 0
    return before - most


def _check_ranges(rows: int, config: DeriveConfig) -> None:
    """Raises InvalidInput for a range in which no row of the first dataset is: a wrong number would choose, or leave
    out, nothing unseen."""
    for option, ranges in (("--rows", config.rows), ("--without", config.without)):
        for first, last in ranges:
            if first > last or first >= rows:
                raise InvalidInput(
                    f"there is no row in {first}-{last}" if first != last else f"there is no row {first}",
                    where=option,
                    remedy=f"Rows are numbered from 0 to {rows - 1}; a range goes from its lower number to its higher.",
                )


def _within(number: int, ranges: Sequence[RowRange]) -> bool:
    return any(first <= number <= last for first, last in ranges)


def _compiled(what: str, patterns: Sequence[str]) -> list[regex.Pattern[str]]:
    found = []
    for number, pattern in enumerate(patterns, 1):
        try:
            found.append(regex.compile(pattern))
        except regex.error:
            raise InvalidInput(
                f"pattern {number} ({what}) is no regular expression",
                where="pattern",
                remedy="Mend it: a bracket that is meant as itself is written \\( or \\[.",
            ) from None
    return found
