"""Rows that mention someone, and a dataset without them. The rest keeps its order and its sides.

Knows rows and text; it does not know who asked, nor what happens to the dataset that it read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cloister.datasets.canonical import DatasetMeta, DatasetWriter
from cloister.datasets.reader import DatasetReader
from cloister.datasets.rows import Row
from cloister.datasets.split import HOLDOUT, TRAIN
from cloister.errors import InvalidInput, NotFound
from cloister.vault import ObjectWriter

BATCH = 1024
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|["\\/bfnrt])')
_CONTROLS = dict.fromkeys("bfnrt", " ")
_NESTED = 3
"""So deep is JSON within JSON followed."""
SHORTEST = 3
"""Characters that an identifier has at least: fewer are part of nearly every text."""


class Mentions:
    """Whether a row mentions one of some identifiers.

    Text and identifiers are compared in Unicode form NFKC, without case, with any run of white space as one
    space and invisible format characters left out; what JSON writes as an escape (`\\u00fc`, `\\n`) counts as the
    character that it stands for. An identifier with a digit in it is also looked for
    with no white space at all, so that `0171 23 45` is found as `017123 45`.

    Args:
        whole_words: only where no letter or digit stands beside it.

    Raises:
        InvalidInput: an identifier is too short; it is named by its number, never shown.
    """

    def __init__(self, identifiers: Sequence[str], *, whole_words: bool = False) -> None:
        self._whole_words = whole_words
        self._spaced = [normalised(text) for text in identifiers]
        for number, text in enumerate(self._spaced, 1):
            if len(text.replace(" ", "")) < SHORTEST:
                raise InvalidInput(
                    f"identifier {number} has fewer than {SHORTEST} characters that are compared",
                    where="identifiers",
                    remedy="Give more of it: a whole name, address or number.",
                )
        self._close = [
            text.replace(" ", "") if any(c.isdigit() for c in text) else None for text in self._spaced
        ]
        self.found = [0] * len(identifiers)
        """Rows that mention each, in the order of the identifiers."""

    def __call__(self, row: Row) -> bool:
        """Whether it is mentioned in any text of the row. Counts."""
        texts = [normalised(form) for text in row.texts() for form in _spellings(text)]
        close = [text.replace(" ", "") for text in texts]
        hit = False
        for number, wanted in enumerate(self._spaced):
            tight = self._close[number]
            if any(self._in(wanted, text) for text in texts) or (
                tight is not None and any(self._in(tight, text) for text in close)
            ):
                self.found[number] += 1
                hit = True
        return hit

    def _in(self, wanted: str, text: str) -> bool:
        at = text.find(wanted)
        while at >= 0:
            if not self._whole_words or not (
                text[at - 1 : at].isalnum() or text[at + len(wanted) : at + len(wanted) + 1].isalnum()
            ):
                return True
            at = text.find(wanted, at + 1)
        return False


def _spellings(text: str) -> Iterator[str]:
    """A text, and what it says where it is JSON: an answer or a call may be, and may hold JSON in its turn."""
    yield text
    for _ in range(_NESTED):
        if "\\" not in text:
            return
        said = _ESCAPE.sub(_meant, text)
        if said == text:
            return
        text = said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        yield text


def _meant(escape: re.Match[str]) -> str:
    code = escape[1]
    return chr(int(code, 16)) if code else _CONTROLS.get(escape[0][1], escape[0][1])


def normalised(text: str) -> str:
    """NFKC, case-folded, white space as single spaces, format characters left out."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if not folded.isascii():
        folded = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return " ".join(folded.split())


@dataclass(frozen=True)
class Forgotten:
    """What was left out. A row counts once, however often it mentions however many; `identifiers_found`
    are those that some row mentions."""

    meta: DatasetMeta
    rows: int
    train_rows: int
    holdout_rows: int
    identifiers_found: int


class KeptSides:
    """The sides of rows as they were, in the place of a `Splitter`."""

    def __init__(self) -> None:
        self.counts = [0, 0]
        self._sides = bytearray()

    def push(self, sides: bytes) -> None:
        """The sides of the rows that are added next."""
        self._sides += sides

    def add(self, rows: list[Row]) -> bytes:
        sides, self._sides = bytes(self._sides[: len(rows)]), self._sides[len(rows) :]
        self.counts[HOLDOUT] += sides.count(HOLDOUT)
        self.counts[TRAIN] += sides.count(TRAIN)
        return sides

    def finish(self) -> bytes:
        return b""


def forget_rows(
    dataset: DatasetReader,
    writer: ObjectWriter,
    mentions: Mentions,
    *,
    progress: Callable[[int, int], None],
) -> Forgotten:
    """Write the rows of `dataset` that mention nobody into a new object, which the caller finishes.

    Raises:
        NotFound: no row mentions anybody, so there is nothing to derive.
        InvalidInput: every row does.
    """
    sides = KeptSides()
    meta = dataset.meta
    holdout = dataset.indices("holdout")
    dropped = [0, 0]
    with DatasetWriter(writer, holdout=meta.holdout, seed=meta.seed, splitter=sides) as out:
        held = iter(holdout)
        next_held = next(held, -1)
        kept: list[Row] = []
        for number, row in enumerate(dataset.rows("all")):
            side = TRAIN
            if number == next_held:
                side, next_held = HOLDOUT, next(held, -1)
            if mentions(row):
                dropped[side] += 1
            else:
                kept.append(row)
                sides.push(bytes([side]))
            if len(kept) == BATCH:
                out.add(kept)
                kept = []
            if number % BATCH == 0:
                progress(number, len(dataset))
        out.add(kept)
        progress(len(dataset), len(dataset))
        if not sum(dropped):
            raise NotFound(
                "no row mentions any of the identifiers, so the dataset stays as it is",
                values={"rows_forgotten": 0, "rows": len(dataset)},
            )
        if not out.rows:
            raise InvalidInput(
                "every row mentions one of the identifiers",
                remedy="Shred the whole dataset, or check the identifiers.",
                values={"rows_forgotten": sum(dropped), "rows": 0},
            )
        made = out.finish(source_format=meta.source_format)
    return Forgotten(
        meta=made,
        rows=sum(dropped),
        train_rows=dropped[TRAIN],
        holdout_rows=dropped[HOLDOUT],
        identifiers_found=sum(count > 0 for count in mentions.found),
    )
