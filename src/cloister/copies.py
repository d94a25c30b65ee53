"""Copies of a home's ledgers: exports for auditors, and what is carried to a witness and back.

The authority serves the ledgers as tlog-tiles does, to those who may read them. A copy continues the one before, or is
refused. It tells nobody: the caller reports to the authority which heads have left.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloister.api import LedgerName
from cloister.client import Client
from cloister.errors import Conflict, NotFound, Tampered
from cloister.ledger.export import Carried, carry
from cloister.ledger.note import NoteError, TreeHead, VerifierKey, check_signature, parse_head
from cloister.ledger.proof import read_note
from cloister.ledger.tiles import TileStore

__all__ = ["Carried", "CosignedHead", "carry_over", "cosigned_in"]

_KEY_ID = re.compile("[0-9a-f]{8}")

LEDGERS: tuple[LedgerName, ...] = ("control", "gateway")
"""In this order: the heads that the control ledger anchors are then in the copy of the gateway's."""


@dataclass(frozen=True, slots=True)
class CosignedHead:
    """A tree head with cosignatures, found on a medium; nothing in it is checked."""

    ledger: str
    path: Path
    note: str


class ServedTiles(TileStore):
    """The tiles of a ledger, as the authority serves them."""

    def __init__(self, client: Client, ledger: LedgerName) -> None:
        super().__init__(Path(f"the {ledger} ledger"))
        self._client = client
        self._ledger = ledger

    def _read(self, level: int | None, index: int, width: int) -> tuple[Path, bytes]:
        path = self.path(level, index, width)
        return path, self._client.tile(self._ledger, path.relative_to(self.root / "tile").as_posix())


class ServedLog:
    """A ledger that the authority serves, to copy from."""

    def __init__(self, client: Client, ledger: LedgerName) -> None:
        self._client = client
        self._ledger: LedgerName = ledger
        self.tiles = ServedTiles(client, ledger)

    def key(self) -> VerifierKey | None:
        try:
            return self._parsed(self._client.log_state(self._ledger).vkey)
        except NotFound:
            return None

    def newest(self) -> tuple[TreeHead, list[bytes]]:
        state = self._client.log_state(self._ledger)
        key = self._parsed(state.vkey)
        try:
            name, head = parse_head(state.checkpoint)
            check_signature(state.checkpoint, key)
            if name != key.name:
                raise NoteError("it is of another log")
            return head, [base64.b64decode(entry, validate=True) for entry in state.tail]
        except (NoteError, ValueError) as error:
            raise Tampered(f"The signed tree head: {error}.", where=self._ledger) from None

    def cosigned(self) -> dict[str, str]:
        notes = self._client.log_state(self._ledger).cosigned
        if not all(_KEY_ID.fullmatch(name) for name in notes):
            raise Tampered("A cosigned tree head has a name of another form.", where=self._ledger)
        return notes

    def _parsed(self, vkey: str) -> VerifierKey:
        try:
            return VerifierKey.parse(vkey)
        except NoteError:
            raise Tampered("The verifier key is damaged.", where=self._ledger) from None


def carry_over(client: Client, folder: Path) -> dict[str, Carried]:
    """Bring the copies in a folder up to the newest signed tree heads, by ledger.

    Raises:
        Conflict: the folder holds something else. Tampered: a copy and its ledger contradict each other.
        Denied: this account may not read the ledgers.
    """
    if folder.exists() and not folder.is_dir():
        raise Conflict("this is not a folder", where=str(folder), remedy="Name a folder.")
    carried: dict[str, Carried] = {}
    for name in LEDGERS:
        copied = carry(ServedLog(client, name), folder / name)
        if copied is not None:
            carried[name] = copied
    return carried


def served_keys(client: Client) -> list[str]:
    """The verifier keys (`vkey`) of the ledgers that have one."""
    found = []
    for name in LEDGERS:
        with suppress(NotFound):
            found.append(client.log_state(name).vkey)
    return found


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
