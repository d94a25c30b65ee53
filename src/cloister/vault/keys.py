"""The vault: unlock slot → root key → KEK (versioned) → data keys, signing keys and secrets.

Locked, it holds no key; unlocked, it hands out one key at a time. Knows no object's files.
"""

from __future__ import annotations

import secrets
import threading
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.errors import Conflict, InvalidInput, Locked, NotFound, Tampered, Unauthenticated
from cloister.vault.files import naming, sync_folder
from cloister.vault.format import KEY_BYTES
from cloister.vault.keystore import KEYSTORE_NAME, KeyStore, WrappedKey
from cloister.vault.manifest import check_word
from cloister.vault.memory import SecretBytes
from cloister.vault.slots import ArgonParams, PassphraseSlot, UnlockSlot
from cloister.vault.wrapping import UnwrapError, unwrap_labelled, wrap_labelled

_SIGNING = "ed25519"
_SECRET = "secret"  # noqa: S105 - a purpose, not a password


class Vault:
    """All keys of an appliance. Safe for threads.

    Calls that need a key raise Locked while locked, Tampered (naming the key store) where a wrapped
    key does not open.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._where = str(store.path)
        self._lock = threading.RLock()
        self._root: SecretBytes | None = None
        self._keks: dict[int, SecretBytes] = {}

    @classmethod
    def create(cls, keys_dir: Path, passphrase: bytes, *, argon: ArgonParams | None = None) -> Self:
        """A new vault in `keys_dir` with one passphrase slot; unlocked. Conflict where there is one.

        It appears whole: a call that is cut off leaves none behind.
        """
        place = keys_dir / KEYSTORE_NAME
        if place.exists():
            raise Conflict("there is a key store already", where=str(place))
        vault_id = secrets.token_hex(16)
        root_key, kek = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
        document = PassphraseSlot(passphrase, argon).seal(root_key, vault_id)
        draft = keys_dir / f"{KEYSTORE_NAME}.new"
        for leftover in (draft, draft.with_name(draft.name + "-journal")):
            leftover.unlink(missing_ok=True)
        store = KeyStore.create(draft, vault_id)
        with store.transaction():
            store.add_slot(PassphraseSlot.kind, document)
            store.add_kek(1, wrap_labelled(root_key, kek, f"kek:{vault_id}:1"))
        store.close()
        with naming(place):
            draft.with_name(draft.name + "-journal").unlink(missing_ok=True)
            draft.replace(place)
            sync_folder(keys_dir)
        vault = cls(KeyStore(place))
        vault._take(root_key)
        return vault

    @classmethod
    def open(cls, keys_dir: Path) -> Self:
        """The vault in `keys_dir`, locked. Raises NotFound or Tampered."""
        return cls(KeyStore(keys_dir / KEYSTORE_NAME))

    @property
    def locked(self) -> bool:
        return self._root is None

    @property
    def vault_id(self) -> str:
        """Names this vault; no secret."""
        return self._store.vault_id

    def unlock(self, passphrase: bytes) -> None:
        """Opens the vault by any passphrase slot. Raises Unauthenticated or Tampered."""
        self.unlock_with(PassphraseSlot(passphrase))

    def unlock_with(self, slot: UnlockSlot) -> None:
        """Opens the vault by any slot of that kind.

        A damaged slot is Tampered only where no other one opens.
        """
        failure: Tampered | Unauthenticated | None = None
        for stored in self._store.slots():
            try:
                document = stored.checked(self.vault_id, self._where)
                if stored.kind != slot.kind:
                    continue
                root_key = slot.open(document, self.vault_id, self._where, stored.slot_id)
            except Unauthenticated as error:
                failure = failure or error
            except Tampered as error:
                failure = error
            else:
                self._take(root_key)
                return
        raise failure or Unauthenticated(f"no unlock slot of kind {slot.kind}", where=self._where)

    def lock(self) -> None:
        """Wipes every key that is held. May be called twice."""
        with self._lock:
            for kek in self._keks.values():
                kek.wipe()
            self._keks = {}
            if self._root is not None:
                self._root.wipe()
                self._root = None

    def close(self) -> None:
        """Locks, and closes the key store."""
        self.lock()
        self._store.close()

    def slots(self) -> list[tuple[int, str]]:
        """Number and kind of each unlock slot."""
        return [(slot.slot_id, slot.kind) for slot in self._store.slots()]

    def add_slot(self, slot: UnlockSlot) -> int:
        """Adds a way to unlock; returns its number."""
        with self._lock:
            if self._root is None:
                raise _locked()
            return self._store.add_slot(slot.kind, slot.seal(self._root.reveal(), self.vault_id))

    def remove_slot(self, slot_id: int) -> None:
        """Removes a way to unlock. Conflict for the last one."""
        self._store.remove_slot(slot_id)

    def new_data_key(self, object_id: str, version: int = 1) -> bytes:
        """A fresh data key for an object version, kept. Conflict where it has or had one."""
        label = _data_label(object_id, version)
        key = secrets.token_bytes(KEY_BYTES)
        with self._lock:
            self._store.add_data_key(object_id, version, self._wrap(key, label))
        return key

    def data_key(self, object_id: str, version: int = 1) -> bytes:
        """The data key of an object version. NotFound where there is none, saying if it was destroyed."""
        label = _data_label(object_id, version)
        with self._lock:
            self._need_open()
            wrapped = self._store.data_key(object_id, version)
            if wrapped is None:
                note = self._store.destroyed_note(object_id, version)
                gone = "was destroyed" + (f": {note}" if note else "")
                what = gone if note is not None else "does not exist"
                raise NotFound(f"the data key of version {version} {what}", where=object_id)
            return self._unwrap(wrapped, label)

    def destroy_data_key(self, object_id: str, version: int = 1, *, note: str = "") -> bool:
        """Destroys a data key for good, also while locked. `note` (when, by whom) is what remains.

        False where it had been destroyed before; NotFound where there never was one.
        """
        _data_label(object_id, version)
        if len(note) > 500:
            raise InvalidInput("a note has at most 500 characters", where=object_id)
        return self._store.destroy_data_key(object_id, version, note)

    @property
    def store(self) -> KeyStore:
        """The key store below: for shredding and backups, which need no open vault."""
        return self._store

    def signing_key(self, name: str) -> Ed25519PrivateKey:
        """The Ed25519 key of that name, made on first use."""
        return Ed25519PrivateKey.from_private_bytes(self._named(name, _SIGNING))

    def secret(self, name: str) -> bytes:
        """The 32 random bytes of that name, made on first use."""
        return self._named(name, _SECRET)

    def check(self) -> int:
        """Opens every key that is stored, and checks every slot; returns how many. Raises Tampered."""
        self._store.integrity()
        for slot in self._store.slots():
            slot.checked(self.vault_id, self._where)
        with self._lock:
            data, named = self._store.data_keys(), self._store.named_keys()
            for object_id, version, wrapped in data:
                self._unwrap(wrapped, _data_label(object_id, version))
            for name, purpose, wrapped in named:
                self._unwrap(wrapped, f"{purpose}:{name}")
            return len(data) + len(named) + len(self._keks)

    def _named(self, name: str, purpose: str) -> bytes:
        label = f"{purpose}:{check_word(name, 'a name of a key')}"
        with self._lock:
            self._need_open()
            wrapped = self._store.named_key(name, purpose)
            if wrapped is None:
                fresh = self._wrap(secrets.token_bytes(KEY_BYTES), label)
                wrapped = self._store.add_named_key(name, purpose, fresh)
            return self._unwrap(wrapped, label)

    def _take(self, root_key: bytes) -> None:
        """Opens every KEK with the root key, and keeps them."""
        keks: dict[int, SecretBytes] = {}
        for version, wrapped in self._store.keks().items():
            try:
                keks[version] = SecretBytes(
                    unwrap_labelled(root_key, wrapped, f"kek:{self.vault_id}:{version}")
                )
            except UnwrapError:
                raise self._damaged(f"key-encryption key {version}") from None
        if not keks:
            raise self._damaged("the key-encryption key")
        with self._lock:
            self.lock()
            self._root, self._keks = SecretBytes(root_key), keks

    def _need_open(self) -> None:
        if self._root is None:
            raise _locked()

    def _wrap(self, key: bytes, label: str) -> WrappedKey:
        self._need_open()
        newest = max(self._keks)
        return WrappedKey(newest, wrap_labelled(self._keks[newest].reveal(), key, label))

    def _unwrap(self, wrapped: WrappedKey, label: str) -> bytes:
        self._need_open()
        kek = self._keks.get(wrapped.kek)
        if kek is None:
            raise self._damaged("the key-encryption key of a stored key")
        try:
            key = unwrap_labelled(kek.reveal(), wrapped.wrapped, label)
        except UnwrapError:
            raise self._damaged("a stored key") from None
        if len(key) != KEY_BYTES:
            raise self._damaged("a stored key")
        return key

    def _damaged(self, what: str) -> Tampered:
        return Tampered(
            f"{what} does not open", where=self._where, remedy="Restore the key store from a backup."
        )


def _locked() -> Locked:
    return Locked("the vault is locked", remedy="Run `cloister unlock`.")


def _data_label(object_id: str, version: int) -> str:
    if version < 1:
        raise InvalidInput("an object's version is 1 or more", where=object_id)
    return f"dek:{check_word(object_id, 'an object id')}:{version}"
