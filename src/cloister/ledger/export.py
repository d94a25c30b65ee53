"""A copy of a ledger that stands on its own: what an auditor gets.

The tree head is taken first, then the files that it needs, then the entries made since, as a journal.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cloister.errors import Conflict
from cloister.ledger import files
from cloister.ledger.frames import frame, seed
from cloister.ledger.tiles import WIDTH, TileStore, pack

if TYPE_CHECKING:
    from cloister.ledger.log import Ledger


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
        _copy_tree(TileStore(ledger.root), TileStore(dest), head.size, touched)
        files.write_file(dest / "checkpoint", head.signed_note.encode(), touched)
        files.write_file(dest / "vkey", f"{ledger.vkey}\n".encode(), touched)
    signed = head.size if head.signed_note is not None else 0
    rest = list(ledger.raw_entries(signed, ledger.size))
    if rest:
        records = [len(entry).to_bytes(2, "big") + entry for entry in rest]
        data, _ = frame(seed(ledger.origin), signed, records)
        files.write_file(dest / "journal" / f"{1:010d}", data, touched)
    files.sync_folders(touched)


def _copy_tree(source: TileStore, target: TileStore, size: int, touched: set[Path]) -> None:
    """The files of the tree of `size` entries, no narrower or wider ones."""
    for level in range((max(size, 1).bit_length() - 1) // 8 + 1):
        full, width = divmod(size >> (8 * level), WIDTH)
        for index in range(full):
            _copy(source.path(level, index), target.path(level, index), touched)
        if width:
            data = b"".join(source.hashes(level, full, width))
            files.write_file(target.path(level, full, width), data, touched)
    full, width = divmod(size, WIDTH)
    for index in range(full):
        _copy(source.path(None, index), target.path(None, index), touched)
    if width:
        files.write_file(target.path(None, full, width), pack(source.entries(full, width)), touched)


def _copy(source: Path, target: Path, touched: set[Path]) -> None:
    files.make_folder(target.parent, touched)
    shutil.copyfile(source, target)
    target.chmod(0o600)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    touched.add(target.parent)
