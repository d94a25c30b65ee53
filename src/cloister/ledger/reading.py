"""Reading a log as it is at one moment: a snapshot, and bundles compared with every hash above them.

Works on the writer's own tree and on the files of a log that another process writes. It decides
nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import NotFound, Tampered
from cloister.ledger.merkle import leaf_hash, perfect_root
from cloister.ledger.note import NoteError, TreeHead, VerifierKey, check_signature, parse_head
from cloister.ledger.proof import MAX_NOTE
from cloister.ledger.tiles import WIDTH, TileStore, Tree
from cloister.modes import read_foreign

_RESTORE = "Restore the ledger from a copy that verifies."
_TRIES = 10
_CACHED_TILES = 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A log at one moment: its tree, the durable entries behind it, and the newest signed head."""

    tree: Tree
    tail: Sequence[bytes] = ()
    head: TreeHead | None = None

    @property
    def size(self) -> int:
        return self.tree.size + len(self.tail)


class CheckedReader:
    """Reads entries of one snapshot. What it gives was compared, hash by hash, up to the right edge.

    Full tiles above the leaves are kept once they were checked. Not for several threads.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._tree = snapshot.tree
        self._checked: dict[tuple[int, int], list[bytes]] = {}

    @property
    def full_bundles(self) -> int:
        """How many bundles of the tree are full: these never change."""
        return self._tree.size // WIDTH

    def bundle_root(self, index: int) -> bytes:
        """The hash of full bundle `index` in the tree. Raises Tampered."""
        return self._tile(1, index // WIDTH)[index % WIDTH]

    def bundle(self, index: int) -> list[bytes]:
        """The entries of a bundle, whole or partial. Raises Tampered, naming the file."""
        tree = self._tree
        if index == tree.size // WIDTH:
            return tree.bundle
        entries = tree.store.entries(index)
        leaves = [leaf_hash(entry) for entry in entries]
        if perfect_root(leaves) != self.bundle_root(index):
            path = tree.store.path(None, index)
            raise Tampered("An entry bundle does not match the tree.", where=str(path), remedy=_RESTORE)
        return entries

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Entries [start, stop) in order, as far as there are any. Raises Tampered."""
        position, end = max(start, 0), min(stop, self.snapshot.size)
        while position < min(end, self._tree.size):
            first = position % WIDTH
            chosen = self.bundle(position // WIDTH)[first : first + end - position]
            position += len(chosen)
            yield from chosen
        if position < end:
            behind = self._tree.size
            yield from self.snapshot.tail[position - behind : end - behind]

    def _tile(self, level: int, index: int) -> list[bytes]:
        tree = self._tree
        if index == (tree.size >> (8 * level)) // WIDTH:
            return tree.edges[level]
        found = self._checked.get((level, index))
        if found is None:
            found = tree.store.hashes(level, index)
            if perfect_root(found) != self._tile(level + 1, index // WIDTH)[index % WIDTH]:
                path = tree.store.path(level, index)
                raise Tampered("A tile does not match the tree.", where=str(path), remedy=_RESTORE)
            while len(self._checked) >= _CACHED_TILES:
                self._checked.pop(next(iter(self._checked)))
            self._checked[level, index] = found
        return found


class LogFiles:
    """The signed part of a log that another process may be writing.

    Args:
        root: the log's folder.
        origin: whose log it has to be.
    """

    def __init__(self, root: Path, origin: str) -> None:
        self.root = root
        self.origin = origin
        self._last: tuple[str, Snapshot] | None = None

    def snapshot(self) -> Snapshot:
        """The tree under the newest signed head.

        Raises:
            NotFound: there is no signed log here.
            Tampered: head, key or right edge do not fit together.
        """
        failure: Exception = NotFound("There is no signed ledger here.", where=str(self.root))
        for _ in range(_TRIES):  # its writer may replace a file between two reads
            try:
                note = read_foreign(self.root / "checkpoint", MAX_NOTE).decode()
                vkey = read_foreign(self.root / "vkey", MAX_NOTE).decode()
            except FileNotFoundError:
                raise NotFound("There is no signed ledger here.", where=str(self.root)) from None
            except OSError as error:
                raise self._damaged(f"cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise self._damaged("is not text") from None
            if self._last is not None and self._last[0] == note:
                return self._last[1]
            try:
                snapshot = self._load(note, vkey)
            except Tampered as error:
                failure = error
                continue
            self._last = (note, snapshot)
            return snapshot
        raise failure

    def _load(self, note: str, vkey: str) -> Snapshot:
        try:
            origin, head = parse_head(note)
            check_signature(note, VerifierKey.parse(vkey))
        except NoteError as error:
            raise self._damaged(f"cannot be believed: {error}") from None
        if origin != self.origin:
            raise self._damaged("is another log's")
        tree = Tree.load(TileStore(self.root), head.size)
        if tree.root() != head.root:
            raise self._damaged("does not match the tree")
        if tree.size % WIDTH and [leaf_hash(entry) for entry in tree.bundle] != tree.edges[0]:
            path = tree.store.path(None, tree.size // WIDTH, tree.size % WIDTH)
            raise Tampered("An entry bundle does not match its tile.", where=str(path), remedy=_RESTORE)
        return Snapshot(tree, (), head)

    def _damaged(self, what: str) -> Tampered:
        where = str(self.root / "checkpoint")
        return Tampered(f"The signed tree head {what}.", where=where, remedy=_RESTORE)
