"""Rows that say the same: exactly, nearly, to the same input something else, or on both sides of a split.

Memory is bounded however many rows come: exact ones are followed for a sample of the contents, chosen by
their hash, so that a content is followed in all its rows or in none; near ones are looked for among
some of the rows. What was looked at is told. Knows rows and sides.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.datasets.rows import Row, encode_row
from cloister.datasets.split import HOLDOUT, TRAIN, normalised_input

if TYPE_CHECKING:
    import numpy as np

FOLLOWED = 300_000
"""Contents that are followed at once, about 100 bytes each."""
COMPARED = 50_000
"""Rows among which near duplicates are looked for, about 650 bytes each."""
PERMUTATIONS, BANDS = 128, 16
SIMILAR = 0.8
"""Estimated Jaccard similarity of two rows' runs of three words, from which they count as near."""
_SHINGLE = 3
_MAX_WORDS = 4096
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Characters of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""

_TRAIN, _HOLDOUT, _DIFFERS = 1, 2, 4


def content_hash(row: Row) -> int:
    """64 bits of the whole row."""
    return int.from_bytes(hashlib.blake2b(encode_row(row), digest_size=8).digest(), "little")


def input_hash(row: Row) -> int:
    """64 bits of what the assistant did not write; case and white space make no difference."""
    return int.from_bytes(hashlib.blake2b(normalised_input(row), digest_size=8).digest(), "little")


class _Followed(dict[int, int]):
    """A number for each content that is followed: those whose hash falls into a share that halves as often as
    there are too many of them (distinct sampling: Gibbons 2001)."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._mask = 0

    @property
    def one_in(self) -> int:
        """One content of so many is followed."""
        return self._mask + 1

    def follows(self, key: int) -> bool:
        return not key & self._mask

    def keep_room(self) -> None:
        while len(self) > self._most:
            self._mask = self._mask << 1 | 1
            for key in [key for key in self if key & self._mask]:
                del self[key]


@dataclass(frozen=True)
class Repeats:
    """Counts, estimated where only one content in `one_in` was followed.

    `duplicates` are rows that an earlier row equals; `conflicting_inputs` inputs with more than one answer, and
    `conflicting_rows` their rows; `leaked` hold-out rows whose input is trained on.
    """

    one_in: int
    duplicates: int
    conflicting_inputs: int
    conflicting_rows: int
    leaked: int


class RepeatCounter:
    """Follows contents and inputs through all rows."""

    def __init__(self, most: int = FOLLOWED) -> None:
        self._contents = _Followed(most)
        self._inputs = _Followed(most)
        # An input's number: hold-out rows << 72 | rows << 40 | 32 bits of the first answer's hash << 8 | marks.

    def add(self, row: Row, side: int) -> bool:
        """Take in the next row; whether it is known to equal an earlier one."""
        key = content_hash(row)
        repeated = False
        if self._contents.follows(key):
            before = self._contents.get(key, 0)
            self._contents[key] = before + 1
            repeated = before > 0
            self._contents.keep_room()
        asked = input_hash(row)
        if self._inputs.follows(asked) and row.messages:
            answer = zlib.crc32(encode_row(row.messages[-1]))  # with the calls, where it calls tools
            held = self._inputs.get(asked)
            mark = _HOLDOUT if side == HOLDOUT else _TRAIN
            if held is None:
                held = answer << 8
            elif held >> 8 & 0xFFFFFFFF != answer:
                mark |= _DIFFERS
            self._inputs[asked] = (held | mark) + (1 << 40) + ((1 << 72) if side == HOLDOUT else 0)
            self._inputs.keep_room()
        return repeated

    def counts(self) -> Repeats:
        scale = self._inputs.one_in
        conflicting = [held for held in self._inputs.values() if held & _DIFFERS]
        both = [held for held in self._inputs.values() if held & 3 == _TRAIN | _HOLDOUT]
        return Repeats(
            one_in=max(scale, self._contents.one_in),
            duplicates=self._contents.one_in * sum(count - 1 for count in self._contents.values()),
            conflicting_inputs=scale * len(conflicting),
            conflicting_rows=scale * sum(held >> 40 & 0xFFFFFFFF for held in conflicting),
            leaked=scale * sum(held >> 72 for held in both),
        )


@dataclass(frozen=True)
class Near:
    """Of `compared` rows (of all rows of the dataset) `similar` have an earlier one that they nearly are, not counting
    equal ones; `leaked` of them are hold-out rows that some training row nearly is. `numbers` are those rows."""

    compared: int
    similar: int
    leaked: int
    numbers: tuple[int, ...] = ()


class NearFinder:
    """MinHash signatures (datasketch) of the rows it is given, and which of them are alike (banding, as in LSH).

    The bands are sorted in arrays instead of kept in a table of sets: 650 bytes a row and nothing else. In a
    group of rows that share a band each is compared with its first two and its neighbour, so a crowd of
    alike rows costs no square; what they miss is missed.
    """

    def __init__(self) -> None:
        self._signatures: list[np.ndarray] = []
        self._numbers: list[int] = []
        self._sides: list[int] = []
        self._contents: list[int] = []
        from datasketch import MinHash  # brings SciPy along

        self._sketch: Any = MinHash
        self._generator: Any = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int, row: Row, side: int) -> None:
        """Take in a row, in the order of the numbers. One with nothing to compare is left out."""
        shingles = list(_shingles(row))
        if not shingles:
            return
        sketch = self._sketch(
            num_perm=PERMUTATIONS,
            hashfunc=zlib.crc32,
            permutations=self._generator.permutations,
            scheme=self._generator.scheme,
        )
        sketch.update_batch(shingles)
        self._signatures.append(sketch.hashvalues.astype("uint32"))
        self._numbers.append(number)
        self._sides.append(side)
        self._contents.append(content_hash(row))

    def find(self) -> Near:
        """Who is alike. May be asked once, when all rows are in."""
        if not self._numbers:
            return Near(0, 0, 0)
        import numpy as np

        signatures = np.stack(self._signatures)
        self._signatures = []
        width = PERMUTATIONS // BANDS
        similar: set[int] = set()
        leaked: set[int] = set()
        for band in range(BANDS):
            pieces = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
            _, keys = np.unique(pieces.view(f"V{4 * width}").ravel(), return_inverse=True)
            order = np.argsort(keys, kind="stable")
            edges = np.flatnonzero(np.diff(keys[order])) + 1
            for group in np.split(order, edges):
                if len(group) > 1:
                    self._compare(group, signatures, similar, leaked)
        numbers = tuple(sorted(self._numbers[place] for place in similar))
        return Near(len(self._numbers), len(similar), len(leaked), numbers)

    def _compare(
        self, group: np.ndarray, signatures: np.ndarray, similar: set[int], leaked: set[int]
    ) -> None:
        """Places in `group` share a band, and are in order."""
        trained = [place for place in group.tolist() if self._sides[place] == TRAIN][:2]
        for at, place in enumerate(group.tolist()):
            for other in {int(group[0]), int(group[min(1, at)]), int(group[max(0, at - 1)])}:
                if other < place and place not in similar and self._near(signatures, place, other):
                    similar.add(place)
            if self._sides[place] == HOLDOUT and place not in leaked:
                for other in trained:
                    if self._near(signatures, place, other):
                        leaked.add(place)

    def _near(self, signatures: np.ndarray, one: int, other: int) -> bool:
        if self._contents[one] == self._contents[other]:
            return False
        return float((signatures[one] == signatures[other]).mean()) >= SIMILAR


def _shingles(row: Row) -> Iterator[bytes]:
    """Runs of three words of what people and the assistant wrote, without case; of three characters where a script
    puts no spaces between words."""
    texts = [message.content for message in row.messages if message.role != "system"]
    said = " ".join([*texts, row.text or ""]).casefold()
    words = (said if said.isascii() else _UNSPACED.sub(r" \g<0> ", said)).split()[:_MAX_WORDS]
    if len(words) < _SHINGLE:
        if words:
            yield " ".join(words).encode()
        return
    for at in range(len(words) - _SHINGLE + 1):
        yield " ".join(words[at : at + _SHINGLE]).encode()
