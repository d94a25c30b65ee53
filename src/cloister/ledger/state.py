"""What the ledger's threads share: the tree, what waits to enter it, the signer, and why it failed.

Holds the lock and nothing else that acts: the committer writes, the integrator signs.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.errors import LedgerUnavailable
from cloister.ledger.note import TreeHead
from cloister.ledger.tiles import Tree


@dataclass(frozen=True, slots=True)
class Settings:
    """How the ledger spends disk and time.

    `journal_bytes` is reserved ahead, twice; `emergency_bytes` once. A tree head is signed at latest
    `sign_after_s` after an append. `retry_s` is how often a ledger that failed for want of space tries
    again. `checked` is how many of the newest entries are compared with the tree on opening.
    """

    journal_bytes: int = 4 << 20
    emergency_bytes: int = 1 << 20
    sign_after_s: float = 0.2
    retry_s: float = 1.0
    checked: int = 1 << 16


class State:
    """Guarded by `changed`, which is notified when the integrator or a waiting flush may have to act."""

    def __init__(self, root: Path, origin: str, settings: Settings, clock: Callable[[], datetime]) -> None:
        self.root = root
        self.origin = origin
        self.settings = settings
        self.changed = threading.Condition()
        self.tree: Tree
        self.tail: list[tuple[bytes, bytes]] = []
        """(entry, leaf hash) of what is durable but not yet in the tree."""
        self.head: TreeHead | None = None
        self.signer: Ed25519PrivateKey | None = None
        self.failure: LedgerUnavailable | None = None
        self.out_of_space = False
        self.wanted = 0
        """The size that someone waits to see signed."""
        self.integrator_rests = False
        self.closing = False
        self.stopped = False
        """The committer is gone: nothing more becomes durable."""
        self._clock = clock

    @property
    def size(self) -> int:
        with self.changed:
            return self.tree.size + len(self.tail)

    def fail(self, error: Exception, what: str, where: Path) -> None:
        """Take no more entries: this could not be written."""
        cause = cannot(what, error, where, f" since {self._clock():%Y-%m-%dT%H:%M:%SZ}")
        with self.changed:
            self.failure = cause
            self.out_of_space = is_out_of_space(error)
            self.changed.notify_all()

    def heal(self) -> None:
        """Take entries again, and sign at once what came in meanwhile."""
        with self.changed:
            self.failure = None
            self.out_of_space = False
            self.wanted = self.tree.size + len(self.tail)
            self.changed.notify_all()

    def unavailable(self, extra: str = "") -> LedgerUnavailable:
        """A new exception that says why no entry is taken."""
        cause = self.failure
        if cause is None:
            return LedgerUnavailable("The ledger is closed.", where=str(self.root))
        message = f"{cause.message} {extra}".rstrip()
        return LedgerUnavailable(message, where=cause.where, remedy=cause.remedy)


def is_out_of_space(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot(what: str, error: Exception, where: Path, when: str = "") -> LedgerUnavailable:
    """The error for a person that an exception stands for; its own text is kept only if the system gave it."""
    if is_out_of_space(error):
        remedy = "Free space on its disk; it recovers by itself."
    else:
        remedy = "Check the disk, then recover or reopen the ledger."
    cause = error.strerror if isinstance(error, OSError) else type(error).__name__
    return LedgerUnavailable(f"{what}{when}: {cause}.", where=str(where), remedy=remedy)
