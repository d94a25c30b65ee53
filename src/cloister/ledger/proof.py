"""Proofs that stand on their own: an entry, its audit path and a signed tree head, as a C2SP tlog-proof.

Made from the log's files, so that any process that may read them can; a log in use may be read too.
"""

from __future__ import annotations

import base64
from pathlib import Path

from cloister.errors import InvalidInput, NotFound, Tampered
from cloister.ledger.merkle import inclusion_proof, leaf_hash, perfect_root, range_hash
from cloister.ledger.note import NoteError, TreeHead, VerifierKey, check_signature, parse_head
from cloister.ledger.tiles import WIDTH, TileStore, Tree
from cloister.modes import read_foreign

HEADER = "c2sp.org/tlog-proof@v1"
MAX_NOTE = 1 << 20
MAX_COSIGNED = 256
_RESTORE = "Restore the ledger from a copy that verifies."


class CachedTree(Tree):
    """A tree that is read once for several hashes: each tile is read and folded once."""

    def __init__(self, store: TileStore) -> None:
        super().__init__(store)
        self._tiles: dict[tuple[int, int], list[bytes]] = {}
        self._nodes: dict[tuple[int, int], bytes] = {}

    def hashes(self, level: int, index: int) -> list[bytes]:
        key = (level, index)
        if key not in self._tiles:
            self._tiles[key] = super().hashes(level, index)
        return self._tiles[key]

    def node(self, height: int, index: int) -> bytes:
        key = (height, index)
        if key not in self._nodes:
            level, rise = divmod(height, 8)
            first = index << rise
            row = self.hashes(level, first // WIDTH)
            self._nodes[key] = perfect_root(row[first % WIDTH : first % WIDTH + (1 << rise)])
        return self._nodes[key]


def read_note(path: Path) -> str | None:
    """A signed tree head, or None where there is none. Raises Tampered where it cannot be one."""
    try:
        return read_foreign(path, MAX_NOTE).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror
        raise Tampered(
            f"The signed tree head cannot be read: {why}.", where=str(path), remedy=_RESTORE
        ) from None
    except UnicodeDecodeError:
        raise Tampered("The signed tree head is not text.", where=str(path), remedy=_RESTORE) from None


def read_vkey(root: Path) -> VerifierKey:
    """The verifier key that lies with a log. Raises NotFound, Tampered."""
    path = root / "vkey"
    try:
        return VerifierKey.parse(read_foreign(path, MAX_NOTE).decode())
    except FileNotFoundError:
        raise NotFound("The ledger has no signing key yet.", where=str(root)) from None
    except (OSError, NoteError, UnicodeDecodeError):
        raise Tampered("The verifier key is damaged.", where=str(path), remedy=_RESTORE) from None


def read_head(path: Path, key: VerifierKey) -> TreeHead | None:
    """The tree head in a file, its signature checked, or None where there is none. Raises Tampered."""
    note = read_note(path)
    if note is None:
        return None
    try:
        name, head = parse_head(note)
        check_signature(note, key)
    except NoteError as error:
        raise Tampered(f"The signed tree head: {error}.", where=str(path), remedy=_RESTORE) from None
    if name != key.name:
        raise Tampered("The signed tree head is of another log.", where=str(path), remedy=_RESTORE)
    return head


def cosigned_heads(root: Path, key: VerifierKey) -> list[TreeHead]:
    """The tree heads beside this log that witnesses have cosigned, as kept."""
    folder = root / "cosigned"
    if not folder.is_dir():
        return []
    names = sorted(path for path in folder.iterdir() if not path.name.endswith(".tmp"))
    return [head for path in names[:MAX_COSIGNED] if (head := read_head(path, key)) is not None]


def prove(root: Path, index: int) -> str:
    """A tlog-proof of one entry, which is its extra data.

    The tree head is the newest one that a witness has cosigned, where that covers the entry, else the newest.

    Raises:
        NotFound: no signed tree head covers such an entry.
        Tampered: a file is damaged.
    """
    key = read_vkey(root)
    newest = read_head(root / "checkpoint", key)
    covering = [head for head in cosigned_heads(root, key) if head.size > index]
    head = max(covering, key=lambda head: head.size) if covering else newest
    if head is None or not 0 <= index < head.size:
        count = 0 if newest is None else newest.size
        raise NotFound(
            f"The ledger has no signed entry {index}: its tree head covers {count}.", where=str(root)
        )
    note = _merged([one for one in covering if (one.size, one.root) == (head.size, head.root)] or [head])
    tree = CachedTree.load(TileStore(root), head.size)
    if range_hash(tree.node, 0, head.size) != head.root:
        raise Tampered("The tree does not match a signed tree head.", where=str(root), remedy=_RESTORE)
    bundle, place = divmod(index, WIDTH)
    entry = (tree.bundle if bundle == head.size // WIDTH else tree.store.entries(bundle))[place]
    if leaf_hash(entry) != tree.hashes(0, bundle)[place]:
        where = str(tree.store.path(None, bundle))
        raise Tampered("An entry does not match its tile.", where=where, remedy=_RESTORE)
    path = inclusion_proof(tree.node, index, head.size)
    return proof_text(index, path, entry, note)


def proof_text(index: int, path: list[bytes], entry: bytes, note: str) -> str:
    """The text of a tlog-proof."""
    if index < 0:
        raise InvalidInput("An index is not negative.", where="proof")
    lines = [HEADER, f"extra {_encode(entry)}", f"index {index}", *map(_encode, path)]
    return "\n".join(lines) + "\n\n" + note


def _merged(heads: list[TreeHead]) -> str:
    """One note with the signatures of all of them: they say the same."""
    text = ""
    lines: dict[str, None] = {}
    for head in heads:
        text, _, signatures = (head.signed_note or "").rpartition("\n\n")
        lines |= dict.fromkeys(signatures.splitlines())
    return "\n".join([text, "", *lines, ""])


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
