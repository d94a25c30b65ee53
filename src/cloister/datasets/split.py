"""The hold-out split: which side a row falls on, decided by its input alone.

A seeded hash of the normalised input (everything that the assistant did not write, or a plain text) picks the side, so
rows with the same input always share one, whatever their order, and each *distinct* input is held out
with probability `share`. The share of rows therefore comes out near `share`, not exactly at it. Knows
rows one at a time; it does not know where they are kept.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from array import array
from collections.abc import Iterator, Sequence

from cloister.datasets.rows import Row

TRAIN, HOLDOUT = 0, 1
_SPAN = 1 << 64
_LOWER = bytes(range(256)).lower()
_WHITE = bytes(code for code in range(128) if chr(code).isspace())
_WIDE_WHITE = "\x85\u1680\u2028\u2029"
"""White space beyond ASCII that NFKC does not turn into a space."""
_BORDER = "\ud800"
"""Half of a surrogate pair, which no text holds. Nothing is composed with it, reordered over it or folded into it."""


def normalised_input(row: Row) -> bytes:
    """The text that decides about sameness: case, white space and Unicode form make no difference."""
    return _normalised_all([_input(row)])[0]


def _input(row: Row) -> str:
    """Its texts, a NUL character between each two: none holds one, and none is changed by what stands beyond one."""
    if row.text is not None:
        return row.text
    messages = row.messages
    if len(messages) == 2 and messages[0].role != "assistant" == messages[1].role:
        return messages[0].content
    return "\0".join([m.content for m in messages if m.role != "assistant"])


def _normalised_all(texts: Sequence[str]) -> list[bytes]:
    """Texts normalised together, as each would be alone."""
    wide = [text for text in texts if not text.isascii()]
    if wide:
        folded = unicodedata.normalize("NFKC", _BORDER.join(wide)).casefold()
        if any(white in folded for white in _WIDE_WHITE):
            folded = "".join(folded.split())
        others = iter(folded.split(_BORDER))
        return [
            (text if text.isascii() else next(others)).encode().translate(_LOWER, _WHITE) for text in texts
        ]
    # ASCII has no 0xff, so it tells texts apart again.
    return "\xff".join(texts).encode("latin-1").translate(_LOWER, _WHITE).split(b"\xff") if texts else []


class InputHash:
    """The seeded hash of a row's normalised input."""

    def __init__(self, seed: int) -> None:
        self._state = hashlib.blake2b(digest_size=8, key=str(seed).encode()[:64], person=b"cloister-split")

    def of(self, rows: Sequence[Row]) -> array[int]:
        """One number of 64 bits a row."""
        digests = []
        copy = self._state.copy
        for each in _normalised_all(list(map(_input, rows))):
            state = copy()
            state.update(each)
            digests.append(state.digest())
        hashes = array("Q", b"".join(digests))
        if sys.byteorder != "little":
            hashes.byteswap()
        return hashes


class Splitter:
    """Gives each row its side, and sees to it that neither side stays empty where that can be had.

    `add` may answer with nothing for a while: as long as all inputs have fallen on one side, the sides
    wait here, one byte a row, because at the end the smallest (or largest) hash must then move over.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._threshold = int(share * _SPAN)
        self._hash = InputHash(seed)
        self._decided = self._threshold == 0
        self._waiting = bytearray()
        self._extreme: int | None = None
        self._side: int | None = None
        self.counts = [0, 0]

    def add(self, rows: list[Row]) -> bytes:
        """Sides of these rows and of any that waited, in order, one byte a row."""
        if self._threshold == 0:
            self.counts[TRAIN] += len(rows)
            return bytes(len(rows))
        return self.add_hashed(self._hash.of(rows))

    def add_hashed(self, hashes: Sequence[int]) -> bytes:
        """As `add`, for rows whose inputs somebody has hashed already."""
        if self._threshold == 0:
            self.counts[TRAIN] += len(hashes)
            return bytes(len(hashes))
        threshold = self._threshold
        sides = bytes([value < threshold for value in hashes])
        held_out = sum(sides)
        self.counts[HOLDOUT] += held_out
        self.counts[TRAIN] += len(sides) - held_out
        if self._decided:
            return sides
        if all(self.counts):
            self._decided = True
            waited = bytes([self._side or 0]) * len(self._waiting)
            self._waiting = bytearray()
            return waited + sides
        self._wait(hashes, sides)
        return b""

    def finish(self) -> bytes:
        """The sides that still waited; one input has moved over if there were two or more."""
        if self._decided or self._side is None:
            return b""
        moved = self._waiting.count(1)
        if moved == len(self._waiting):
            moved = 0
            self._waiting = bytearray(len(self._waiting))
        self.counts[self._side] -= moved
        self.counts[1 - self._side] += moved
        table = bytes([self._side, 1 - self._side]) + bytes(range(2, 256))
        return bytes(self._waiting.translate(table))

    def _wait(self, hashes: Sequence[int], sides: bytes) -> None:
        """Remember which rows have the hash nearest to the border: 1 in `_waiting`."""
        if not sides:
            return
        self._side = sides[0]
        extreme = max(hashes) if self._side == HOLDOUT else min(hashes)
        known = self._extreme
        if known is None or (extreme > known if self._side == HOLDOUT else extreme < known):
            self._extreme = extreme
            self._waiting = bytearray(len(self._waiting))
        self._waiting += bytes([value == self._extreme for value in hashes])


def sides_of(sides: bytes, wanted: int, first: int = 0) -> Iterator[int]:
    """Row numbers of one side."""
    return (number for number, side in enumerate(sides, first) if side == wanted)
