"""The vault's unlock slots in the authority: adding, removing, opening by any of them, and rotating keys.

Every change is an entry before it takes effect. A slot is added and removed only by who opens another one:
that the vault is open says that somebody unlocked it, not that whoever asks now may. Shares of several
people are gathered here, in memory, until there are enough.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from cloister.api import AddedSlot, KekRotated, NewSlot, Opening, RootRotated, SlotSecret, SlotView
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal
from cloister.errors import (
    CloisterError,
    Conflict,
    InvalidInput,
    LedgerUnavailable,
    NotFound,
    OutOfSpace,
    Tampered,
    Unauthenticated,
)
from cloister.vault import ArgonParams, PassphraseSlot, UnlockSlot, Vault
from cloister.vault.credential import CredentialSlot, credential_name, read_credential
from cloister.vault.memory import SecretBytes
from cloister.vault.shares import SharesSlot, shares_facts
from cloister.vault.slots import damaged_slot
from cloister.vault.token import TokenSlot

log = structlog.get_logger()

SHARES_WAIT_S = 600.0
"""How long the shares of one person wait for those of another."""

_KINDS: dict[str, type[UnlockSlot]] = {
    slot.kind: slot for slot in (PassphraseSlot, CredentialSlot, SharesSlot, TokenSlot)
}


class Slots:
    """What may be asked about unlock slots.

    Args:
        modules: drivers of tokens that the settings allow.
        credentials: the folder of this service's credentials, where systemd gave it one.
    """

    def __init__(
        self,
        seal: Seal,
        recorder: Recorder,
        *,
        modules: tuple[str, ...] = (),
        credentials: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seal = seal
        self._recorder = recorder
        self._modules = tuple(Path(module) for module in modules)
        self._credentials = credentials
        self._clock = clock
        self._gathered: list[SecretBytes] = []
        self._gathered_at = 0.0

    def listed(self) -> list[SlotView]:
        """Every slot, also of a locked vault. Errors: Conflict before `init`."""
        vault = self._seal.any_vault
        found = []
        for stored in vault.stored_slots():
            try:
                if not stored.intact(vault.vault_id) or stored.kind not in _KINDS:
                    raise damaged_slot("", stored.slot_id)
                detail = _KINDS[stored.kind].summary(stored.document, "", stored.slot_id)
                found.append(SlotView(slot=stored.slot_id, kind=stored.kind, state="good", detail=detail))
            except Tampered:
                kind = stored.kind if stored.kind in _KINDS else "?"
                damaged = "its document is not what was written"
                found.append(SlotView(slot=stored.slot_id, kind=kind, state="damaged", detail=damaged))
        return found

    # --- unlocking -----------------------------------------------------------------------

    async def unlock(self, peer: Peer, secret: SlotSecret) -> Opening:
        """Open the vault, or take one person's shares and wait for the others'.

        Errors: Unauthenticated, Denied, Unavailable, InvalidInput, Conflict, Tampered.
        """
        if not self._seal.locked:
            return Opening(open=True)
        if secret.kind == "shares":
            return await self._unlock_by_shares(peer, secret)
        opened = await self._seal.unlock_with(peer, self._slot(secret), secret.slot)
        await self.after_unlock()
        return Opening(open=True, slot=opened)

    async def unlock_at_start(self) -> bool:
        """Open the vault by a credential of this service, where there is one. Never raises."""
        if self._credentials is None or not self._seal.initialised or not self._seal.locked:
            return False
        vault = self._seal.any_vault
        for stored in vault.stored_slots():
            if stored.kind != CredentialSlot.kind or not stored.intact(vault.vault_id):
                continue
            try:
                name = credential_name(stored.document, "", stored.slot_id)
                key = read_credential(self._credentials, name)
                if key is None:
                    continue
                await self._seal.unlock_with(None, CredentialSlot(key, name), stored.slot_id)
                await self.after_unlock()
            except CloisterError as error:
                log.warning("unlock.credential", slot=stored.slot_id, code=error.code)
                continue
            return True
        return False

    async def after_unlock(self) -> None:
        """Complete a rotation that was cut off. It is done at the next unlock where it cannot be now."""
        self._forget_shares()
        if self._seal.any_vault.rotation_pending:
            with contextlib.suppress(LedgerUnavailable, OutOfSpace, Tampered):
                await self.rotate_kek(None)

    async def _unlock_by_shares(self, peer: Peer, secret: SlotSecret) -> Opening:
        given = SharesSlot.joined(secret.shares)  # refuses what is no share before it is an attempt
        shares = [_plain(share) for share in secret.shares]
        vault = self._seal.any_vault
        facts = [
            (stored.slot_id, shares_facts(stored.document, "", stored.slot_id))
            for stored in vault.stored_slots()
            if stored.kind == SharesSlot.kind
            and stored.intact(vault.vault_id)
            and secret.slot in (None, stored.slot_id)
        ]
        mine = next(((n, fact) for n, fact in facts if fact.identifier == given.facts.identifier), None)
        said = {"kind": SharesSlot.kind, "shares": len(secret.shares)}
        if mine is None:
            await self._recorder.record(peer, "vault.unlock", decision="attempt", **said)
            await self._recorder.record(
                peer, "vault.unlock", decision="refused", reason="shares of another set", **said
            )
            raise Unauthenticated("no slot has shares of this set", remedy="See `cloister vault slot list`.")
        number, fact = mine
        waiting = [share for share in self._waiting() if _set_of(share) == fact.identifier]
        together = [*(share for share in waiting if share not in shares), *shares]
        if len(together) < fact.threshold:
            await self._recorder.record(
                peer,
                "vault.unlock",
                decision="share",
                reason=f"{len(together)} of {fact.threshold} shares",
                slot=number,
                **said,
            )
            self._keep(together)
            return Opening(open=False, slot=number, given=len(together), needed=fact.threshold)
        self._forget_shares()
        opened = await self._seal.unlock_with(peer, SharesSlot.joined(together), number)
        await self.after_unlock()
        return Opening(open=True, slot=opened, given=len(together), needed=fact.threshold)

    def _waiting(self) -> list[str]:
        if self._clock() - self._gathered_at > SHARES_WAIT_S:
            self._forget_shares()
        return [share.reveal().decode() for share in self._gathered]

    def _keep(self, mnemonics: list[str]) -> None:
        self._forget_shares()
        self._gathered = [SecretBytes(mnemonic.encode()) for mnemonic in mnemonics]
        self._gathered_at = self._clock()

    def _forget_shares(self) -> None:
        for share in self._gathered:
            share.wipe()
        self._gathered = []

    # --- changing ------------------------------------------------------------------------

    async def add(self, peer: Peer, request: NewSlot) -> AddedSlot:
        """Add a slot. Errors: Locked, Unauthenticated (the proof), InvalidInput, Denied, Unavailable."""
        slot = self._new_slot(request)
        async with self._seal.changing() as vault:
            proved = await self._prove(peer, vault, request.proof, "vault.slot.add")
            await self._recorder.record(peer, "vault.slot.add", kind=request.kind, proved_by_slot=proved)
            number = await asyncio.to_thread(vault.add_slot, slot)
        shares = list(slot.mnemonics) if isinstance(slot, SharesSlot) else []
        return AddedSlot(slot=number, kind=slot.kind, shares=shares)

    async def remove(self, peer: Peer, number: int, proof: SlotSecret) -> None:
        """Remove a slot, by whoever opens another one. Errors: Locked, NotFound, Unauthenticated, Conflict."""
        async with self._seal.changing() as vault:
            if number not in [slot for slot, _ in vault.slots()]:
                raise NotFound(f"there is no unlock slot {number}", remedy="See `cloister vault slot list`.")
            if len(vault.slots()) == 1:
                raise Conflict("the last unlock slot cannot be removed", remedy="Add another one first.")
            proved = await self._prove(peer, vault, proof, "vault.slot.remove", but_not=number)
            await self._recorder.record(peer, "vault.slot.remove", slot=number, proved_by_slot=proved)
            await asyncio.to_thread(vault.remove_slot, number)

    async def rotate_kek(self, peer: Peer | None) -> KekRotated:
        """Wrap every key anew. Errors: Locked, LedgerUnavailable, Tampered."""
        async with self._seal.changing() as vault:
            return await self._rotate_kek(peer, vault)

    async def rotate_root(self, peer: Peer, proof: SlotSecret) -> RootRotated:
        """A fresh root key behind the one slot that `proof` opens. Errors: as `add`."""
        async with self._seal.changing() as vault:
            slot = self._slot(proof)
            proved = await self._prove(peer, vault, proof, "vault.rotate.root")
            await self._recorder.record(peer, "vault.rotate.root", slot=proved)
            kept, ended = await asyncio.to_thread(vault.rotate_root, slot, proved)
            return RootRotated(kept=kept, ended=list(ended), kek=await self._rotate_kek(peer, vault))

    async def _rotate_kek(self, peer: Peer | None, vault: Vault) -> KekRotated:
        resumed = vault.rotation_pending
        await self._recorder.record(peer, "vault.rotate.kek", decision="resumed" if resumed else "started")
        done = await asyncio.to_thread(vault.rotate_kek)
        with contextlib.suppress(LedgerUnavailable, OutOfSpace):  # it is done, and was entered before
            await self._recorder.record(
                peer, "vault.rotate.kek", decision="done", version=done.version, keys=done.rewrapped
            )
        return KekRotated(
            version=done.version,
            rewrapped=done.rewrapped,
            destroyed=list(done.destroyed),
            resumed=done.resumed,
        )

    async def _prove(
        self, peer: Peer, vault: Vault, proof: SlotSecret, action: str, but_not: int | None = None
    ) -> int:
        try:
            slot = self._slot(proof)
            return await asyncio.to_thread(vault.prove, slot, proof.slot, but_not=but_not)
        except CloisterError as error:
            await self._recorder.record(
                peer, action, decision="refused", reason=f"proof by {proof.kind}: {error.code}"
            )
            raise

    # --- the kinds -----------------------------------------------------------------------

    def _slot(self, secret: SlotSecret) -> UnlockSlot:
        """What opens a slot. Errors: InvalidInput."""
        if secret.kind == "passphrase":
            return PassphraseSlot(_needed(secret.passphrase, "passphrase").encode())
        if secret.kind == "credential":
            return CredentialSlot(_decoded(_needed(secret.key, "key")))
        if secret.kind == "shares":
            return SharesSlot.joined(secret.shares)
        tokens = [number for number, kind in self._seal.any_vault.slots() if kind == TokenSlot.kind]
        if secret.slot is None and len(tokens) > 1:  # a PIN tried on another token may lock it
            raise InvalidInput("there are several slots for tokens", remedy="Name one with --slot.")
        return TokenSlot(_needed(secret.pin, "pin"), allowed=self._modules)

    def _new_slot(self, request: NewSlot) -> UnlockSlot:
        """The slot to make. Errors: InvalidInput, Denied."""
        if request.kind == "passphrase":
            argon = ArgonParams(request.memory_mib * 1024, request.iterations, request.lanes)
            return PassphraseSlot(_needed(request.passphrase, "passphrase").encode(), argon)
        if request.kind == "credential":
            return CredentialSlot(_decoded(_needed(request.key, "key")), request.name)
        if request.kind == "shares":
            return SharesSlot.split(request.threshold, request.count)
        return TokenSlot(
            _needed(request.pin, "pin"),
            allowed=self._modules,
            module=Path(_needed(request.module, "module")),
            token=_needed(request.token, "token"),
            key_id=_needed(request.key_id, "key_id"),
        )


def credentials_folder() -> Path | None:
    """The folder that systemd made for this service's credentials."""
    named = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(named) if named else None


def _needed(value: str | None, field: str) -> str:
    if value is None:
        raise InvalidInput("this kind of slot needs it", where=field)
    return value


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("not base64", where="key") from None


def _plain(mnemonic: str) -> str:
    return " ".join(mnemonic.lower().split())


def _set_of(mnemonic: str) -> int:
    return SharesSlot.joined([mnemonic]).facts.identifier
