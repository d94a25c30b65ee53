"""The tree on disk, in the layout of C2SP tlog-tiles: hash tiles, entry bundles, the signed tree head.

`TileStore` knows paths and reads files; `Tree` is the tree up to a tree head, and grows into a new
tree without changing the old one. Neither knows of journals, threads or when to sign.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cloister.errors import Tampered
from cloister.ledger import files
from cloister.ledger.merkle import Peaks, leaf_hash, perfect_root
from cloister.modes import read_foreign

WIDTH = 256
MAX_BUNDLE = WIDTH * (2 + 0xFFFF)
_RESTORE = "Restore the ledger from a copy that verifies."


def tile_name(index: int, width: int = WIDTH) -> str:
    """`x001/x234/067`, with `.p/<width>` for a partial one."""
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    return "/".join(groups) + ("" if width == WIDTH else f".p/{width}")


_NAME = re.compile(
    r"(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)


def parse_tile_path(path: str) -> tuple[int | None, int, int] | None:
    """Level (None: entries), index and width of `<L>/<N>[.p/<W>]` as tlog-tiles writes it; None for all else."""
    match = _NAME.fullmatch(path)
    if match is None:
        return None
    index, width = int(match[2].replace("x", "").replace("/", "")), int(match[3] or WIDTH)
    if tile_name(index, width) != path.partition("/")[2] or width > WIDTH:
        return None
    return None if match[1] == "entries" else int(match[1]), index, width


def pack(entries: Sequence[bytes]) -> bytes:
    """Entries as a bundle holds them: each behind its length in two bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack(data: bytes) -> list[bytes] | None:
    """The entries of a bundle, or None when the lengths do not fit."""
    entries = []
    position, end = 0, len(data)
    while position < end:
        start = position + 2
        position = start + int.from_bytes(data[start - 2 : start], "big")
        if start > end or position > end:
            return None
        entries.append(data[start:position])
    return entries


class TileStore:
    """Reads tiles and bundles below one folder. Damage is reported as `Tampered`, naming the file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.head = root / "checkpoint"

    def path(self, level: int | None, index: int, width: int = WIDTH) -> Path:
        """Of the hash tile at `level`, or of the entry bundle where level is None."""
        return self.root / "tile" / ("entries" if level is None else str(level)) / tile_name(index, width)

    def raw(self, level: int | None, index: int, width: int = WIDTH) -> bytes:
        """A tile or bundle of just that width, as tlog-tiles serves it. Raises Tampered."""
        path, data = self._read(level, index, width)
        if path == self.path(level, index, width):
            return data
        if level is None:
            return pack(self.entries(index, width))
        return b"".join(self.hashes(level, index, width))

    def has_tiles(self) -> bool:
        """Whether anything was ever integrated here."""
        return (self.root / "tile").exists()

    def folders(self) -> list[Path]:
        """Every folder of the tree that is there now."""
        return [Path(folder) for folder, _, _ in os.walk(self.root / "tile")]

    def _read(self, level: int | None, index: int, width: int) -> tuple[Path, bytes]:
        """The narrowest file that holds the first `width` elements."""
        exact = self.path(level, index, width)
        for wide in (width, WIDTH, *range(width + 1, WIDTH)):
            path = self.path(level, index, wide)
            try:
                return path, read_foreign(path, MAX_BUNDLE if level is None else 32 * WIDTH)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise Tampered(
                    f"A file of the ledger cannot be read: {error.strerror}.",
                    where=str(path),
                    remedy=_RESTORE,
                ) from None
        raise Tampered("A file of the ledger is missing.", where=str(exact), remedy=_RESTORE)

    def hashes(self, level: int, index: int, width: int = WIDTH) -> list[bytes]:
        """The first `width` hashes of a tile."""
        path, data = self._read(level, index, width)
        full = int(path.name) if path.parent.suffix == ".p" else WIDTH
        if len(data) != 32 * full:
            raise Tampered("A tile has not the size its name says.", where=str(path), remedy=_RESTORE)
        return [data[i : i + 32] for i in range(0, 32 * width, 32)]

    def entries(self, index: int, width: int = WIDTH) -> list[bytes]:
        """The first `width` entries of a bundle, not compared with their hashes."""
        path, data = self._read(None, index, width)
        entries = unpack(data)
        full = int(path.name) if path.parent.suffix == ".p" else WIDTH
        if entries is None or len(entries) != full:
            raise Tampered("An entry bundle is malformed.", where=str(path), remedy=_RESTORE)
        return entries[:width]


class Tree:
    """The tree of one size: its right edge in memory, all else in the store. Immutable once grown."""

    def __init__(self, store: TileStore) -> None:
        self.store = store
        self.size = 0
        self.peaks = Peaks()
        self.edges: list[list[bytes]] = [[]]
        """Hashes of the rightmost, partial tile of each level."""
        self.bundle: list[bytes] = []
        """Entries of the rightmost, partial bundle."""

    @classmethod
    def load(cls, store: TileStore, size: int) -> Tree:
        tree = cls(store)
        tree.size = size
        level = 0
        tree.edges = []
        while size >> (8 * level):
            count = size >> (8 * level)
            width = count % WIDTH
            edge = store.hashes(level, count // WIDTH, width) if width else []
            tree.edges.append(edge)
            for value in edge:
                tree.peaks.push(value, 8 * level)
            level += 1
        tree.edges = tree.edges or [[]]
        if size % WIDTH:
            tree.bundle = store.entries(size // WIDTH, size % WIDTH)
        return tree

    def root(self) -> bytes:
        return self.peaks.root()

    def hashes(self, level: int, index: int) -> list[bytes]:
        """The hashes of a tile of this tree, whole or partial."""
        if index == (self.size >> (8 * level)) // WIDTH:
            return self.edges[level] if level < len(self.edges) else []
        return self.store.hashes(level, index)

    def node(self, height: int, index: int) -> bytes:
        """Hash of a perfect subtree of this tree (`merkle.Node`)."""
        level, rise = divmod(height, 8)
        first = index << rise
        row = self.hashes(level, first // WIDTH)
        return perfect_root(row[first % WIDTH : first % WIDTH + (1 << rise)])

    def entries(self, index: int) -> list[bytes]:
        """The entries of a bundle of this tree, each compared with its hash."""
        if index == self.size // WIDTH:
            return self.bundle
        entries = self.store.entries(index)
        if [leaf_hash(entry) for entry in entries] != self.store.hashes(0, index):
            where = str(self.store.path(None, index))
            raise Tampered("An entry bundle does not match its tile.", where=where, remedy=_RESTORE)
        return entries

    def grow(self, entries: Sequence[bytes], leaves: Sequence[bytes]) -> tuple[Tree, list[Path]]:
        """The tree with these entries appended, its files written and synced.

        Returns the new tree and the folders of partial files that full ones have replaced; they may be
        removed once the new tree's head is durable.

        Raises:
            OSError: a file could not be written; this tree is as it was.
        """
        tree = Tree(self.store)
        tree.size = self.size
        tree.peaks = self.peaks.copy()
        tree.edges = [edge.copy() for edge in self.edges]
        tree.bundle = self.bundle.copy()
        touched: set[Path] = set()
        replaced: list[Path] = []
        for entry, leaf in zip(entries, leaves, strict=True):
            tree._push(entry, leaf, touched, replaced)
        for level, edge in enumerate(tree.edges):
            if edge and (tree.size >> (8 * level)) != (self.size >> (8 * level)):
                tree._write(level, b"".join(edge), len(edge), touched)
        if tree.bundle and entries:
            tree._write(None, pack(tree.bundle), len(tree.bundle), touched)
        files.sync_folders(touched)
        return tree, replaced

    def _push(self, entry: bytes, leaf: bytes, touched: set[Path], replaced: list[Path]) -> None:
        self.edges[0].append(leaf)
        self.bundle.append(entry)
        self.size += 1
        for height, value in self.peaks.push(leaf):
            level = height // 8
            if level == len(self.edges):
                self.edges.append([])
            self.edges[level].append(value)
        level = 0
        while level < len(self.edges) and len(self.edges[level]) == WIDTH:
            full = (self.size >> (8 * level)) // WIDTH - 1
            if level == 0:
                self._write(None, pack(self.bundle), WIDTH, touched, full)
                self.bundle = []
                replaced.append(self._partials(None, full))
            self._write(level, b"".join(self.edges[level]), WIDTH, touched, full)
            self.edges[level] = []
            replaced.append(self._partials(level, full))
            level += 1

    def _write(
        self, level: int | None, data: bytes, width: int, touched: set[Path], index: int | None = None
    ) -> None:
        if index is None:
            index = (self.size >> (8 * (level or 0))) // WIDTH
        files.write_file(self.store.path(level, index, width), data, touched)

    def _partials(self, level: int | None, index: int) -> Path:
        full = self.store.path(level, index)
        return full.with_name(full.name + ".p")
