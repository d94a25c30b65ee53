"""Copies of a home's ledgers: exports for auditors, and what is carried to a witness and back.

Works on the ledgers' files with the caller's own rights, beside a running authority. It tells nobody: the
caller reports to the authority which heads have left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister.errors import Conflict, Tampered
from cloister.home import Home
from cloister.ledger.export import Carried, carry
from cloister.ledger.proof import read_note

__all__ = ["Carried", "CosignedHead", "carry_home", "cosigned_in"]

LEDGERS = ("control", "gateway")
"""In this order: the heads that the control ledger anchors are then in the copy of the gateway's."""


@dataclass(frozen=True, slots=True)
class CosignedHead:
    """A tree head with cosignatures, found on a medium; nothing in it is checked."""

    ledger: str
    path: Path
    note: str


def carry_home(home: Home, folder: Path) -> dict[str, Carried]:
    """Bring the copies in a folder up to this home's newest signed tree heads, by ledger.

    Raises:
        Conflict: the folder holds something else. Tampered: a copy and its ledger contradict each other.
    """
    if folder.exists() and not folder.is_dir():
        raise Conflict("this is not a folder", where=str(folder), remedy="Name a folder.")
    carried = {}
    for name in LEDGERS:
        copied = carry(home.ledger(name), folder / name)
        if copied is not None:
            carried[name] = copied
    return carried


def cosigned_in(folder: Path) -> list[CosignedHead]:
    """The cosigned tree heads that witnesses have left in a folder of copies."""
    found = []
    for name in LEDGERS:
        cosigned = folder / name / "cosigned"
        if cosigned.is_symlink() or not cosigned.is_dir():
            continue
        for path in sorted(cosigned.iterdir())[:256]:
            if path.is_symlink():
                raise Conflict("this is a link", where=str(path), remedy="Remove it.")
            if not path.name.endswith(".tmp") and path.is_file():
                note = read_note(path)
                if note is None:
                    raise Tampered("it vanished while it was read", where=str(path))
                found.append(CosignedHead(name, path, note))
    return found
