"""Copies of a ledger that stand on their own: what an auditor gets, and what is carried to a witness.

The tree head is taken first, then the files that it needs, then the entries made since, as a journal. So
a log may be copied while it is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cloister.errors import Conflict, Tampered
from cloister.ledger import files
from cloister.ledger.frames import frame, seed
from cloister.ledger.journal import Journal
from cloister.ledger.note import NoteError, TreeHead, VerifierKey, check_signature, parse_head
from cloister.ledger.proof import cosigned_heads, read_head, read_note, read_vkey
from cloister.ledger.tiles import WIDTH, TileStore, Tree

if TYPE_CHECKING:
    from cloister.ledger.log import Ledger

TRIES = 20
_UNFINISHED = ("tile", "cosigned", "vkey", "checkpoint.tmp", "vkey.tmp")
"""What an interrupted first copy leaves behind."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A copy was brought from `before` to `size` signed entries; `unsigned` came along beyond these."""

    origin: str
    before: int
    size: int
    unsigned: int


def export(ledger: Ledger, dest: Path) -> None:
    """Copy tree, unsigned entries and `vkey` into an empty or new folder.

    Raises:
        Conflict: the folder holds something.
    """
    if dest.exists() and any(dest.iterdir()):
        raise Conflict("The folder is not empty.", where=str(dest), remedy="Name a new or empty folder.")
    touched: set[Path] = set()
    files.make_folder(dest, touched)
    head = ledger.head()
    if head.signed_note is not None:
        _copy_tree(TileStore(ledger.root), TileStore(dest), 0, head.size, touched)
        os.sync()
        files.write_file(dest / "checkpoint", head.signed_note.encode(), touched)
        files.write_file(dest / "vkey", f"{ledger.vkey}\n".encode(), touched)
        _copy_cosigned(LogFolder(ledger.root), dest, touched)
    signed = head.size if head.signed_note is not None else 0
    _write_journal(dest, ledger.origin, signed, list(ledger.raw_entries(signed, ledger.size)), touched)
    files.sync_folders(touched)


class Source(Protocol):
    """A log to copy from: its folder, or whoever serves it."""

    @property
    def tiles(self) -> TileStore: ...
    def key(self) -> VerifierKey | None:
        """Of its tree heads; None where nothing is signed yet."""

    def newest(self) -> tuple[TreeHead, list[bytes]]:
        """The newest signed tree head, its signature checked, and the entries made since. Raises Tampered."""

    def cosigned(self) -> dict[str, str]:
        """The tree heads that witnesses cosigned, by the name of their file."""


class LogFolder:
    """A log's own folder, which another process may be writing to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tiles = TileStore(root)

    def key(self) -> VerifierKey | None:
        if not (self.root / "vkey").exists() or not (self.root / "checkpoint").exists():
            return None
        return read_vkey(self.root)

    def newest(self) -> tuple[TreeHead, list[bytes]]:
        return _head_and_tail(self.root, read_vkey(self.root))

    def cosigned(self) -> dict[str, str]:
        if not cosigned_heads(self.root, read_vkey(self.root)):
            return {}
        paths = sorted((self.root / "cosigned").iterdir())
        found = ((path.name, read_note(path)) for path in paths if not path.name.endswith(".tmp"))
        return {name: note for name, note in found if note is not None}


def carry(source: Source, dest: Path) -> Carried | None:
    """Bring a copy up to the newest signed tree head, copying only what it has not; None: nothing is signed.

    The log may be in use by another process. An interrupted copy is taken up by the next call.

    Raises:
        Conflict: the folder holds something else than a copy of this log.
        Tampered: the copy's tree head and this log contradict each other, or a file is damaged.
    """
    key = source.key()
    if key is None:
        return None
    _refuse_links(dest)
    held = _held_head(dest, key)
    head, tail = source.newest()
    before = 0 if held is None else held.size
    if held is not None:
        _check_continues(source.tiles, held, head, dest)
    touched: set[Path] = set()
    files.make_folder(dest, touched)
    _copy_tree(source.tiles, TileStore(dest), before, head.size, touched)
    _copy_cosigned(source, dest, touched)
    os.sync()  # everything below the tree head is on the medium before the head is
    shutil.rmtree(dest / "journal", ignore_errors=True)
    files.write_file(dest / "vkey", f"{key}\n".encode(), touched)
    files.write_file(dest / "checkpoint", (head.signed_note or "").encode(), touched)
    _write_journal(dest, key.name, head.size, tail, touched)
    if before < head.size:
        _tidy(TileStore(dest), before, head.size)
    files.sync_folders(folder for folder in touched if folder.is_dir())
    return Carried(key.name, before, head.size, len(tail))


def _head_and_tail(source: Path, key: VerifierKey) -> tuple[TreeHead, list[bytes]]:
    """The newest signed tree head, and the entries made since."""
    for attempt in range(TRIES):
        head = read_head(source / "checkpoint", key)
        if head is None:
            break
        try:
            journal = Journal(source / "journal", key.name, file_bytes=0, emergency_bytes=0)
            return head, journal.read(head.size)
        except (Tampered, OSError):  # files whose entries are signed by now are removed while they are read
            if attempt == TRIES - 1:
                raise
    raise Tampered("The signed tree head is missing.", where=str(source / "checkpoint"))


def _refuse_links(folder: Path) -> None:
    """The medium comes from elsewhere: nothing is written through a link on it."""
    if folder.is_symlink():
        raise Conflict("This is a link.", where=str(folder), remedy="Name the folder itself.")
    if folder.is_dir():
        with os.scandir(folder) as listed:
            for entry in listed:
                if entry.is_symlink():
                    raise Conflict(
                        "There is a link in the copy.", where=entry.path, remedy="Name a new or empty folder."
                    )
                if entry.is_dir():
                    _refuse_links(Path(entry.path))


def _held_head(dest: Path, key: VerifierKey) -> TreeHead | None:
    path = dest / "checkpoint"
    note = read_note(path)
    if note is None:
        if dest.exists() and any(path.name not in _UNFINISHED for path in dest.iterdir()):
            raise Conflict(
                "The folder holds something else than a copy of this ledger.",
                where=str(dest),
                remedy="Name a new or empty folder.",
            )
        return None
    try:
        name, head = parse_head(note)
        if name != key.name:
            raise NoteError("it is of another log")
        check_signature(note, key)
    except NoteError as error:
        raise Conflict(
            f"The folder's tree head is not this ledger's: {error}.",
            where=str(path),
            remedy="Compare it with the verifier key of this ledger, or name a new folder.",
        ) from None
    return head


def _check_continues(source: TileStore, held: TreeHead, head: TreeHead, dest: Path) -> None:
    remedy = (
        "Keep both and find out who changed the ledger: what was carried out earlier is signed by its key."
    )
    if held.size > head.size:
        raise Tampered(
            f"The ledger was rolled back: it has {head.size} signed entries, the copy {held.size}.",
            where=str(dest / "checkpoint"),
            remedy=remedy,
        )
    if Tree.load(source, held.size).root() != held.root:
        raise Tampered(
            f"The ledger was forked: it does not continue the copy's tree head of {held.size} entries.",
            where=str(dest / "checkpoint"),
            remedy=remedy,
        )


def _copy_tree(source: TileStore, target: TileStore, before: int, size: int, touched: set[Path]) -> None:
    """The files of the tree of `size` entries that the one of `before` has not, no narrower or wider ones."""
    if before == size and size:
        return
    for level in range((max(size, 1).bit_length() - 1) // 8 + 1):
        full, width = divmod(size >> (8 * level), WIDTH)
        for index in range((before >> (8 * level)) // WIDTH, full):
            _write(target.path(level, index), source.raw(level, index), touched)
        if width:
            _write(target.path(level, full, width), source.raw(level, full, width), touched)
    full, width = divmod(size, WIDTH)
    for index in range(before // WIDTH, full):
        _write(target.path(None, index), source.raw(None, index), touched)
    if width:
        _write(target.path(None, full, width), source.raw(None, full, width), touched)


def _tidy(store: TileStore, before: int, size: int) -> None:
    """Remove the partial tiles of the smaller tree, which the larger one has replaced."""
    for level in [None, *range((max(before, 1).bit_length() - 1) // 8 + 1)]:
        count, grown = before >> (8 * (level or 0)), size >> (8 * (level or 0))
        index, width = divmod(count, WIDTH)
        if not width or count == grown:
            continue
        if index < grown // WIDTH:
            full = store.path(level, index)
            files.remove_folder(full.with_name(full.name + ".p"))
        else:
            store.path(level, index, width).unlink(missing_ok=True)


def _copy_cosigned(source: Source, dest: Path, touched: set[Path]) -> None:
    """Take cosigned tree heads along. Those in the copy that the log has not are left alone."""
    for name, note in source.cosigned().items():
        _write(dest / "cosigned" / name, note.encode(), touched)


def _write_journal(dest: Path, origin: str, first: int, entries: Sequence[bytes], touched: set[Path]) -> None:
    if entries:
        records = [len(entry).to_bytes(2, "big") + entry for entry in entries]
        data, _ = frame(seed(origin), first, records)
        files.write_file(dest / "journal" / f"{1:010d}", data, touched)


def _write(path: Path, data: bytes, touched: set[Path]) -> None:
    """Write a file whose durability is seen to for all of them together."""
    files.make_folder(path.parent, touched)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.chmod(0o600)
    temporary.replace(path)
    touched.add(path.parent)
