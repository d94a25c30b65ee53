"""Whether tree heads leave this machine: what left, what witnesses cosigned, and what is overdue.

Cosignatures come in on media that anybody may have touched: each is checked against the witnesses of the
settings and against the ledger itself before it is kept. Nothing here copies a ledger.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloister.api import CosignedHead, HeadsLeft, LedgerProof, LedgerWitness
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.store import Clock, utc_now
from cloister.errors import CloisterError, Conflict, InvalidInput, Tampered
from cloister.home import Home
from cloister.ledger import files
from cloister.ledger.note import TreeHead
from cloister.ledger.proof import cosigned_heads, prove, read_head, read_vkey
from cloister.ledger.tiles import TileStore, Tree
from cloister.policy.settings import LedgerSettings
from cloister.verifier import (
    Cosignature,
    VerificationError,
    parse_tree_head,
    parse_vkey,
    parse_witness_vkey,
    verify_cosignatures,
    verify_note,
)

LEDGERS = ("control", "gateway")
CARRY = "cloister audit carry FOLDER"


class Witnessing:
    """The witnesses of one home's ledgers, as the settings name them."""

    def __init__(
        self, home: Home, settings: LedgerSettings, recorder: Recorder, *, clock: Clock = utc_now
    ) -> None:
        self._home = home
        self._settings = settings
        self._recorder = recorder
        self._clock = clock
        self._keys = [parse_witness_vkey(text) for text in settings.witnesses]
        self._changing = asyncio.Lock()
        self._first: dict[str, datetime] = {}
        """When each ledger's first entry was made, which stays as it is."""

    async def prove(self, name: str, index: int) -> LedgerProof:
        """A tlog-proof of an entry. Errors: NotFound, Tampered, LedgerUnavailable."""
        if name == "control":
            await asyncio.to_thread(self._recorder.ledger.flush)
        return LedgerProof(proof=await asyncio.to_thread(prove, self._home.ledger(name), index))

    async def left(self, peer: Peer | None, request: HeadsLeft) -> None:
        """Note that heads have left. Errors: InvalidInput for one that is not signed; LedgerUnavailable."""
        for name, size in request.sizes.items():
            head = read_head(self._home.ledger(name) / "checkpoint", read_vkey(self._home.ledger(name)))
            if head is None or head.size < size:
                raise InvalidInput("this ledger has no such signed tree head", where=name)
        await self._recorder.record(peer, "ledger.left", how=request.how, sizes=dict(request.sizes))
        async with self._changing:
            known = self._left()
            moment = self._clock().isoformat(timespec="seconds")
            known |= {name: {"size": size, "time": moment} for name, size in request.sizes.items()}
            await asyncio.to_thread(_write, self._home.left_file, json.dumps(known).encode() + b"\n")

    async def take_in(self, peer: Peer | None, request: CosignedHead) -> list[Cosignature]:
        """Keep a cosigned tree head. Returns the cosignatures that are new.

        Errors: Conflict where no witness is named; InvalidInput where no named one cosigned it, or a
        signature is wrong; Tampered where the ledger does not continue it.
        """
        if not self._keys:
            raise Conflict(
                "no witness is named in the settings",
                where=str(self._home.settings_file),
                remedy="Put the key that `cloister witness` prints under `ledger: witnesses:` and restart.",
            )
        root, note = self._home.ledger(request.ledger), request.note.encode()
        key = parse_vkey(str(read_vkey(root)))
        try:
            head = parse_tree_head(verify_note(note, key))
            found = verify_cosignatures(note, self._keys, self._clock().timestamp())
        except VerificationError as error:
            raise InvalidInput(f"the cosigned tree head is refused: {error}", where=request.ledger) from None
        if not found:
            raise InvalidInput(
                "no witness that the settings name has cosigned this tree head",
                where=request.ledger,
                remedy=f"Add the witness's key to `ledger: witnesses:` in {self._home.settings_file}.",
            )
        await asyncio.to_thread(self._require_ours, root, head.size, head.root)
        async with self._changing:
            kept = {one.witness: one for one in self._cosignatures(request.ledger)}
            fresh = [one for one in found if _is_newer(one, kept.get(one.witness))]
            for one in fresh:
                await self._recorder.record(
                    peer,
                    "ledger.cosigned",
                    digests={"root": head.root.hex()},
                    ledger=request.ledger,
                    witness=one.witness,
                    size=one.size,
                    cosigned_at=one.time,
                )
                name = next(key.id.hex() for key in self._keys if key.name == one.witness)
                await asyncio.to_thread(_write, root / "cosigned" / name, note)
        return fresh

    def _require_ours(self, root: Path, size: int, expected: bytes) -> None:
        newest = read_head(root / "checkpoint", read_vkey(root))
        if newest is None or newest.size < size:
            raise Tampered(
                f"A witness has cosigned a tree head of {size} entries; this ledger has fewer: rolled back.",
                where=str(root),
                remedy="Keep the witness's copy and find out who changed the ledger.",
            )
        if Tree.load(TileStore(root), size).root() != expected:
            raise Tampered(
                f"This ledger does not continue the tree head of {size} entries that a witness has cosigned.",
                where=str(root),
                remedy="Keep the witness's copy and find out who changed the ledger.",
            )

    # --- what the status says --------------------------------------------------------------------

    def state(self) -> list[LedgerWitness]:
        """One for each ledger that has signed anything."""
        left = self._left()
        return [state for name in LEDGERS if (state := self._state(name, left.get(name))) is not None]

    def warnings(self, states: Iterable[LedgerWitness] | None = None) -> list[str]:
        """UNWITNESSED, once for each ledger that is overdue, with since when and the next command.

        `states` are those of `state` at this moment, where the caller has them.
        """
        found = []
        for state in self.state() if states is None else states:
            if state.overdue_since is not None:
                what = (
                    f"no witness has cosigned the {state.ledger} ledger"
                    if self._keys
                    else f"no tree head of the {state.ledger} ledger has left this machine"
                )
                since = f"{state.overdue_since:%Y-%m-%d %H:%M} UTC"
                found.append(f"UNWITNESSED: {what} since {since}; next: `{state.command}`")
        return found

    def _state(self, name: str, left: dict[str, Any] | None) -> LedgerWitness | None:
        root = self._home.ledger(name)
        if not (root / "vkey").exists():
            return None
        left_at = datetime.fromisoformat(left["time"]) if left else None
        newest = max(self._cosignatures(name), key=lambda one: one.time, default=None)
        cosigned_at = datetime.fromtimestamp(newest.time, UTC) if newest else None
        moments = [cosigned_at] if self._keys else [cosigned_at, left_at]
        last = max((moment for moment in moments if moment is not None), default=None)
        due = last is None or (self._clock() - last).total_seconds() > self._settings.witness_period_s
        return LedgerWitness(
            ledger=name,
            left_at=left_at,
            left_size=left["size"] if left else None,
            cosigned_at=cosigned_at,
            cosigned_size=newest.size if newest else None,
            cosigned_by=newest.witness if newest else None,
            overdue_since=(last or self._begun(name, root)) if due else None,
            command=CARRY,
        )

    def _begun(self, name: str, root: Path) -> datetime:
        """When the ledger's first entry was made."""
        try:
            if name not in self._first:
                entry = TileStore(root).entries(0, 1)[0]
                self._first[name] = datetime.fromisoformat(json.loads(entry)["time"])
            return self._first[name]
        except (CloisterError, OSError, ValueError, LookupError, TypeError):
            pass  # none is in the tree yet, or it is damaged, which is for `audit verify` to say
        return self._clock()

    def _cosignatures(self, name: str) -> list[Cosignature]:
        """Those that are kept, checked again, of the witnesses that the settings name."""
        root = self._home.ledger(name)
        found: list[Cosignature] = []
        if not self._keys:
            return found
        try:
            heads: list[TreeHead] = cosigned_heads(root, read_vkey(root))
            for head in heads:
                note = (head.signed_note or "").encode()
                found += verify_cosignatures(note, self._keys, self._clock().timestamp())
        except (CloisterError, VerificationError, OSError):
            return []
        return found

    def _left(self) -> dict[str, dict[str, Any]]:
        try:
            known = json.loads(self._home.left_file.read_bytes())
            for one in known.values():
                if datetime.fromisoformat(one["time"]).tzinfo is None or type(one["size"]) is not int:
                    return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return dict(known)


def _is_newer(one: Cosignature, kept: Cosignature | None) -> bool:
    return kept is None or (one.size, one.time) > (kept.size, kept.time)


def _write(path: Path, data: bytes) -> None:
    touched: set[Path] = set()
    files.write_file(path, data, touched)
    files.sync_folders(touched)
