"""The RFC 6962 Merkle tree: hashes, the growing right edge, and proofs.

Knows nothing of files: proofs are computed through a function that returns the hash of a perfect
subtree. SHA-256 throughout; leaves are prefixed with 0x00, inner nodes with 0x01.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()

Node = Callable[[int, int], bytes]
"""`node(height, index)`: the hash of the perfect subtree over leaves [index·2^height, (index+1)·2^height)."""


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """Root over hashes whose number is a power of two."""
    row = list(hashes)
    while len(row) > 1:
        row = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
    return row[0]


class Peaks:
    """The perfect subtrees along a tree's right edge: enough to grow it and to know its root."""

    def __init__(self, hashes: dict[int, bytes] | None = None) -> None:
        self._by_height: list[bytes | None] = [None] * 65
        for height, value in (hashes or {}).items():
            self._by_height[height] = value

    def copy(self) -> Peaks:
        twin = Peaks()
        twin._by_height = self._by_height.copy()
        return twin

    def push(self, value: bytes, height: int = 0) -> list[tuple[int, bytes]]:
        """Add a perfect subtree of that height; returns (height, hash) of the larger ones it completes."""
        completed = []
        by_height = self._by_height
        while (left := by_height[height]) is not None:
            value = sha256(b"\x01" + left + value).digest()
            by_height[height] = None
            height += 1
            if not height & 7:
                completed.append((height, value))
        by_height[height] = value
        return completed

    def root(self) -> bytes:
        result: bytes | None = None
        for peak in self._by_height:
            if peak is not None:
                result = peak if result is None else node_hash(peak, result)
        return EMPTY_ROOT if result is None else result


def range_hash(node: Node, start: int, stop: int) -> bytes:
    """MTH of leaves [start, stop), a range as proofs need them: aligned to its largest perfect subtree."""
    result: bytes | None = None
    while stop > start:
        # The lowest set bit of the length is the last perfect subtree of the range.
        height = ((stop - start) & -(stop - start)).bit_length() - 1
        stop -= 1 << height
        peak = node(height, stop >> height)
        result = peak if result is None else node_hash(peak, result)
    return EMPTY_ROOT if result is None else result


def _split(length: int) -> int:
    """The largest power of two smaller than length (> 1)."""
    return 1 << ((length - 1).bit_length() - 1)


def inclusion_proof(node: Node, index: int, size: int) -> list[bytes]:
    """RFC 6962 §2.1.1 audit path of leaf `index` in the tree of `size` leaves, from the leaf upwards."""
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(range_hash(node, middle, stop))
            stop = middle
        else:
            path.append(range_hash(node, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(node: Node, old: int, new: int) -> list[bytes]:
    """RFC 6962 §2.1.2 proof that the tree of `old` leaves is a prefix of the one of `new` leaves."""
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, stop, whole = 0, new, True
    while stop != old:
        middle = start + _split(stop - start)
        if old <= middle:
            path.append(range_hash(node, middle, stop))
            stop = middle
        else:
            path.append(range_hash(node, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(range_hash(node, start, stop))
    return path[::-1]
