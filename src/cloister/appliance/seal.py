"""The vault's life in the authority: initialise, unlock, lock, and what waits for it to be open."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.api import GatewaySecrets
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.errors import (
    CloisterError,
    Conflict,
    InvalidInput,
    LedgerUnavailable,
    Locked,
    Tampered,
    Unauthenticated,
)
from cloister.vault import PassphraseSlot, UnlockSlot, Vault

LEDGER_KEY = "ledger-control"
MANIFEST_KEY = "manifest"
MODEL_SIGNING = "model-signing"
"""The secret that the key on exported models is made from."""
PSEUDONYMS = "pseudonyms"
"""The secret that made-up values in the place of personal data come from: the same for all datasets."""


def appliance_id(path: Path) -> str:
    """This home's identity, made at its first start; part of its ledgers' origin lines."""
    try:
        return str(json.loads(path.read_text())["id"])
    except FileNotFoundError:
        identity = secrets.token_hex(8)
        part = path.with_suffix(".part")
        with part.open("w") as file:
            file.write(json.dumps({"id": identity}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)  # the gateway reads it, which may have an account of its own
        part.replace(path)
        return identity
    except (ValueError, KeyError, TypeError):
        raise Tampered(
            "this is not an appliance's identity", where=str(path), remedy="Restore it from a backup."
        ) from None


class Seal:
    """One vault, locked or open. `opened` is set while it is open."""

    def __init__(self, keys: Path, recorder: Recorder) -> None:
        self._keys = keys
        self._recorder = recorder
        self._vault: Vault | None = Vault.open(keys) if (keys / "keystore.db").exists() else None
        self._changing = asyncio.Lock()
        self.opened = asyncio.Event()

    @property
    def initialised(self) -> bool:
        return self._vault is not None

    @property
    def locked(self) -> bool:
        return not self.opened.is_set()

    @property
    def vault(self) -> Vault:
        """The open vault. Errors: Conflict before `init`, Locked while it is locked."""
        if self._vault is None:
            raise Conflict("this appliance is not initialised", remedy="Run `cloister init`.")
        if self.locked:
            raise Locked("the vault is locked", remedy="Run `cloister unlock`.")
        return self._vault

    @property
    def any_vault(self) -> Vault:
        """The vault, open or locked: to destroy keys and to copy the key store. Errors: Conflict before `init`."""
        if self._vault is None:
            raise Conflict("this appliance is not initialised", remedy="Run `cloister init`.")
        return self._vault

    async def initialise(self, peer: Peer, passphrase: str) -> None:
        """Make the vault with its first slot, and open it."""
        async with self._changing:
            if self._vault is not None:
                raise Conflict("this appliance is initialised already", remedy="Run `cloister unlock`.")
            await self._recorder.record(peer, "vault.init")
            vault = await asyncio.to_thread(Vault.create, self._keys, passphrase.encode())
            if vault.locked:
                await asyncio.to_thread(vault.unlock, passphrase.encode())
            self._vault = vault
            self._open()

    async def unlock(self, peer: Peer, passphrase: str) -> None:
        """Open the vault by a passphrase. Errors: Unauthenticated, Conflict, Tampered."""
        await self.unlock_with(peer, PassphraseSlot(passphrase.encode()))

    async def unlock_with(
        self, peer: Peer | None, secret: UnlockSlot, number: int | None = None
    ) -> int | None:
        """Open the vault by a slot; its number, or None where it was open. Each attempt is an entry.

        Errors: Unauthenticated, Denied, Unavailable (a token), Conflict, Tampered.
        """
        async with self._changing:
            if not self.locked:
                return None
            vault = self.any_vault
            said = {"kind": secret.kind} | ({"slot": number} if number is not None else {})
            await self._recorder.record(peer, "vault.unlock", decision="attempt", **said)
            try:
                opened = await asyncio.to_thread(vault.unlock_with, secret, number)
            except CloisterError as error:
                why = f"wrong {secret.kind}" if isinstance(error, Unauthenticated) else error.code
                await self._recorder.record(peer, "vault.unlock", decision="refused", reason=why, **said)
                raise
            try:
                said["slot"] = opened
                await self._recorder.record(peer, "vault.unlock", decision="opened", **said)
            except BaseException:
                vault.lock()
                raise
            self._open()
            return opened

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[Vault]:
        """The open vault, which is neither locked nor unlocked meanwhile. Errors: Conflict, Locked."""
        async with self._changing:
            yield self.vault

    async def lock(self, peer: Peer) -> None:
        """Wipe the keys. Work must have ended."""
        async with self._changing:
            if self._vault is None or self.locked:
                return
            await self._recorder.record_taking_away(peer, "vault.lock")
            self.close()

    def close(self) -> None:
        """Sign what is there, forget the ledger key, wipe the vault's keys."""
        if self._vault is None or self.locked:
            return
        self.opened.clear()
        with contextlib.suppress(LedgerUnavailable):  # what is not signed now is signed at the next unlock
            self._recorder.ledger.flush()
        self._recorder.ledger.detach_signer()
        self._vault.lock()

    def _open(self) -> None:
        assert self._vault is not None
        try:
            self._recorder.ledger.attach_signer(self._vault.signing_key(LEDGER_KEY))
        except BaseException:
            self._vault.lock()
            raise
        self.opened.set()

    def manifest_key(self) -> Ed25519PrivateKey:
        return self.vault.signing_key(MANIFEST_KEY)

    def config_digest(self, config: dict[str, Any]) -> str:
        """A keyed digest of a frozen configuration, in hex: it says 'the same', and confirms no guess.

        Errors: InvalidInput for a number that JSON does not carry exactly; Locked.
        """
        try:
            canonical = rfc8785.dumps(config)
        except rfc8785.CanonicalizationError:
            raise InvalidInput(
                "a number in the settings is not finite, or has more than 53 bits",
                remedy="Choose another one.",
            ) from None
        return hmac.new(self.vault.secret("config-digest"), canonical, hashlib.sha256).hexdigest()

    def hash_api_key(self, api_key: str) -> str:
        return hmac.new(self.vault.secret("gateway-pepper"), api_key.encode(), hashlib.sha256).hexdigest()

    def gateway_secrets(self) -> GatewaySecrets:
        """The gateway's own keys. Errors: Locked."""

        def secret(name: str) -> str:
            return b64encode(self.vault.secret(name)).decode()

        return GatewaySecrets(
            ledger_seed=secret("gateway-ledger"),
            pepper=secret("gateway-pepper"),
            cache_key=secret("gateway-cache"),
        )
