"""What is checked when a ledger is opened: the signed tree head against the files of the tree.

The right edge of the tree and the newest entries are compared, file by file, so that damage is named
before anything is built on it. The whole log is the verifier's work.
"""

from __future__ import annotations

from pathlib import Path

from cloister.errors import Conflict, Tampered
from cloister.ledger.files import remove_folder
from cloister.ledger.merkle import leaf_hash, perfect_root
from cloister.ledger.note import NoteError, TreeHead, VerifierKey, check_signature, parse_head
from cloister.ledger.tiles import WIDTH, TileStore, Tree


def load_checked(store: TileStore, origin: str, newest: int) -> tuple[TreeHead | None, Tree]:
    """The signed tree head, where there is one, and its tree, with the `newest` entries compared.

    Raises:
        Tampered: a file is damaged; `where` names it.
        Conflict: the log is another origin's.
    """
    stored = store.root / "vkey"
    try:
        note = store.head.read_bytes().decode()
        name, head = parse_head(note)
        if stored.exists():
            check_signature(note, _stored_key(stored))
    except FileNotFoundError:
        if stored.exists() or store.has_tiles():
            raise _damaged("The signed tree head is missing", store.head) from None
        return None, Tree(store)
    except UnicodeDecodeError:
        raise _damaged("The signed tree head is not text", store.head) from None
    except NoteError as error:
        raise _damaged(f"The signed tree head is damaged: {error}", store.head) from None
    if name != origin:
        raise Conflict(f"This is the ledger of {name!r}.", where=str(store.head))
    tree = Tree.load(store, head.size)
    _compare(store, tree, head, newest)
    return head, tree


def _stored_key(path: Path) -> VerifierKey:
    try:
        return VerifierKey.parse(path.read_text())
    except (NoteError, UnicodeDecodeError):
        raise _damaged("The verifier key is damaged", path) from None


def _damaged(what: str, where: Path) -> Tampered:
    return Tampered(f"{what}.", where=str(where), remedy="Restore the ledger from a copy that verifies.")


def _compare(store: TileStore, tree: Tree, head: TreeHead, newest: int) -> None:
    """Compare bundles with tiles, tiles with the tiles above them, and the right edge with the root."""
    signed = tree.root() == head.root
    leaves = [leaf_hash(entry) for entry in tree.bundle]
    if leaves != tree.edges[0]:
        # The tile's hashes are part of the right edge: if that gives the root, they are sound.
        level = None if signed else 0
        raise _damaged("The file does not match the tree", store.path(level, tree.size // WIDTH, len(leaves)))
    for index in range(max(tree.size - newest, 0) // WIDTH, tree.size // WIDTH):
        tile = store.hashes(0, index)
        root = perfect_root(tile)
        above = tree.hashes(1, index // WIDTH)[index % WIDTH]
        if [leaf_hash(entry) for entry in store.entries(index)] != tile:
            level = None if root == above else 0
            raise _damaged("The file does not match the tree", store.path(level, index))
        if root != above:
            where = store.path(0, index) if signed else _edge(store, tree, 1)
            raise _damaged("The tile does not match the tree", where)
        for level in (None, 0):  # left behind by a writer that was cut off
            full = store.path(level, index)
            remove_folder(full.with_name(full.name + ".p"))
    for level in range(1, len(tree.edges) - 1):
        for index in range((tree.size >> (8 * level)) // WIDTH):
            above = tree.hashes(level + 1, index // WIDTH)[index % WIDTH]
            if perfect_root(store.hashes(level, index)) != above:
                where = store.path(level, index) if signed else _edge(store, tree, level + 1)
                raise _damaged("The tile does not match the tree", where)
    if not signed:
        raise _damaged("The signed tree head does not match the tree", store.head)


def _edge(store: TileStore, tree: Tree, level: int) -> Path:
    last = (tree.size >> (8 * level)) // WIDTH
    return store.path(level, last, len(tree.edges[level])) if tree.edges[level] else store.head
