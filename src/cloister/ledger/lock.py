"""One writer at a time: an advisory lock on a file of the log's folder, which is made durable first."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from cloister.errors import Conflict
from cloister.ledger import files
from cloister.ledger.state import cannot


def take_lock(root: Path, journal: Path) -> int:
    """Make the folders of the log and hold it; returns the descriptor that holds it.

    Raises:
        Conflict: another process or object writes this log.
        LedgerUnavailable: the folder cannot be written.
    """
    try:
        touched: set[Path] = set()
        files.make_folder(journal, touched)
        # A process before this one may have made a folder or renamed a tree head and failed to sync that.
        touched |= {root, journal}
        files.sync_folders(touched)
        with contextlib.suppress(PermissionError):
            files.sync_folder(root.parent)
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise cannot("The ledger cannot be opened for writing", error, root) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Conflict(
            "Another process or object writes this ledger.",
            where=str(root),
            remedy="Stop the other one first.",
        ) from None
    return descriptor
