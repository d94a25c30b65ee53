"""The vault: unlock slot → root key → KEK (versioned) → data keys, signing keys and secrets.

Locked, it holds no key; unlocked, it hands out one key at a time. Knows no object's files.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.errors import (
    Conflict,
    InvalidInput,
    Locked,
    NotFound,
    Tampered,
)
from cloister.vault.files import naming, sync_folder
from cloister.vault.format import KEY_BYTES
from cloister.vault.keystore import KEYSTORE_NAME, KekRotation, KeyStore, WrappedKey
from cloister.vault.manifest import check_word
from cloister.vault.memory import SecretBytes, wipe_bytes
from cloister.vault.slots import (
    ArgonParams,
    PassphraseSlot,
    StoredSlot,
    UnlockSlot,
    damaged_slot,
    opened_by,
)
from cloister.vault.wrapping import UnwrapError, unwrap_labelled, wrap_labelled

_SIGNING = "ed25519"
_SECRET = "secret"  # noqa: S105 - a purpose, not a password
_BATCH = 200
"""Keys that are wrapped anew in one transaction."""


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

    def unlock(self, passphrase: bytes) -> int:
        """Opens the vault by any passphrase slot; returns its number. Raises Unauthenticated or Tampered."""
        return self.unlock_with(PassphraseSlot(passphrase))

    def unlock_with(self, slot: UnlockSlot, number: int | None = None) -> int:
        """Opens the vault by any slot of that kind, or by slot `number` alone; returns the slot's number.

        A damaged slot is Tampered only where no other one opens.
        """
        opened, root_key = self._opened_by(slot, number)
        try:
            self._take(root_key)
        finally:
            wipe_bytes(root_key)
        return opened

    def prove(self, slot: UnlockSlot, number: int | None = None, *, but_not: int | None = None) -> int:
        """The number of a slot that this opens, other than `but_not`; changes nothing. The vault is open.

        Raises Unauthenticated where it opens none, Tampered where the one that it opens is damaged, or
        gives another root key than this vault's: somebody put it there.
        """
        with self._lock:
            right = self._need_open().reveal()
        found = b""
        try:
            opened, found = self._opened_by(slot, number, but_not)
            if not hmac.compare_digest(found, right):
                raise damaged_slot(self._where, opened)
            return opened
        finally:
            wipe_bytes(right, found)

    def _opened_by(
        self, slot: UnlockSlot, number: int | None, but_not: int | None = None
    ) -> tuple[int, bytes]:
        stored = [one for one in self._store.slots() if one.slot_id != but_not]
        return opened_by(stored, slot, self.vault_id, self._where, number)

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

    def stored_slots(self) -> list[StoredSlot]:
        """The unlock slots as they are kept, unchecked."""
        return self._store.slots()

    def add_slot(self, slot: UnlockSlot) -> int:
        """Adds a way to unlock; returns its number."""
        with self._lock:
            if self._root is None:
                raise _locked()
            root_key = self._root.reveal()
        try:
            document = slot.seal(root_key, self.vault_id)
        finally:
            wipe_bytes(root_key)
        return self._store.add_slot(slot.kind, document)

    def remove_slot(self, slot_id: int) -> None:
        """Removes a way to unlock, and every trace of it in the file. Conflict for the last one."""
        self._store.remove_slot(slot_id)

    def rotate_kek(self) -> KekRotation:
        """Wraps every key anew under a fresh KEK and destroys the KEKs before it; touches no object.

        Cut off at any point, every key still opens, and the next call completes what was begun.
        """
        with self._lock:
            root = self._need_open()
            self._refresh()
            resumed = len(self._keks) > 1
            if not resumed:
                version = max(self._keks) + 1
                kek = secrets.token_bytes(KEY_BYTES)
                root_key = root.reveal()
                wrapped = wrap_labelled(root_key, kek, f"kek:{self.vault_id}:{version}")
                self._store.add_kek(version, wrapped)
                self._keks[version] = SecretBytes(kek)
                wipe_bytes(root_key, kek)
            newest = max(self._keks)
            rewrapped = 0
            while count := self._rewrap_some(newest):
                rewrapped += count
            destroyed = self._store.drop_keks_below(newest)
            for version in destroyed:
                self._keks.pop(version).wipe()
            return KekRotation(newest, rewrapped, destroyed, resumed)

    @property
    def rotation_pending(self) -> bool:
        """Whether a rotation of the KEK was cut off and waits to be completed."""
        return len(self._store.keks()) > 1

    def rotate_root(self, slot: UnlockSlot, number: int | None = None) -> tuple[int, tuple[int, ...]]:
        """A fresh root key behind the one slot that `slot` opens; every other slot ends at once.

        For a slot whose secret others may know: what they keep of an older key store opens nothing that
        is made from now on. Rotate the KEK next. Returns the slot that stays and those that ended.
        """
        with self._lock:
            self._need_open()
            kept = self.prove(slot, number)
            self._refresh()
            root_key = secrets.token_bytes(KEY_BYTES)
            old = next(stored.document for stored in self._store.slots() if stored.slot_id == kept)
            document = slot.reseal(old, root_key, self.vault_id, self._where, kept)
            keks = {}
            for version, kek in self._keks.items():
                plain = kek.reveal()
                keks[version] = wrap_labelled(root_key, plain, f"kek:{self.vault_id}:{version}")
                wipe_bytes(plain)
            ended = self._store.replace_root(kept, slot.kind, document, keks)
            self._take(root_key)
            wipe_bytes(root_key)
            return kept, ended

    def new_data_key(self, object_id: str, version: int = 1) -> bytes:
        """A fresh data key for an object version, kept. Conflict where it has or had one."""
        label = _data_label(object_id, version)
        key = secrets.token_bytes(KEY_BYTES)
        with self._lock, self._store.transaction():
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
        count, found = self.survey()
        if found:
            raise found[0]
        return count

    def survey(self) -> tuple[int, list[Tampered]]:
        """How many keys are stored, and everything that is wrong with them, the slots and the file."""
        self._store.integrity()
        found = []
        for slot in self._store.slots():
            if not slot.intact(self.vault_id):
                found.append(damaged_slot(self._where, slot.slot_id))
        with self._lock:
            self._need_open()
            labelled = [(_data_label(name, number), key) for name, number, key in self._store.data_keys()]
            labelled += [(f"{purpose}:{name}", key) for name, purpose, key in self._store.named_keys()]
            for label, wrapped in labelled:
                try:
                    wipe_bytes(self._unwrap(wrapped, label))
                except Tampered as error:
                    error.message = f"the stored key {label} does not open"
                    found.append(error)
            return len(labelled) + len(self._keks), found

    def keyed_versions(self) -> list[tuple[str, int]]:
        """The object versions that have a data key. Works while locked."""
        return [(object_id, version) for object_id, version, _ in self._store.data_keys()]

    def _named(self, name: str, purpose: str) -> bytes:
        label = f"{purpose}:{check_word(name, 'a name of a key')}"
        with self._lock:
            self._need_open()
            wrapped = self._store.named_key(name, purpose)
            if wrapped is None:
                with self._store.transaction():
                    fresh = self._wrap(secrets.token_bytes(KEY_BYTES), label)
                    wrapped = self._store.add_named_key(name, purpose, fresh)
            return self._unwrap(wrapped, label)

    def _take(self, root_key: bytes) -> None:
        """Opens every KEK with the root key, and keeps them."""
        keks: dict[int, SecretBytes] = {}
        for version, wrapped in self._store.keks().items():
            try:
                kek = unwrap_labelled(root_key, wrapped, f"kek:{self.vault_id}:{version}")
            except UnwrapError:
                raise self._damaged(f"key-encryption key {version}") from None
            keks[version] = SecretBytes(kek)
            wipe_bytes(kek)
        if not keks:
            raise self._damaged("the key-encryption key")
        with self._lock:
            self.lock()
            self._root, self._keks = SecretBytes(root_key), keks

    def _refresh(self) -> None:
        """Takes in KEKs that another process has made or destroyed."""
        root = self._need_open()
        if self._store.keks().keys() != self._keks.keys():
            root_key = root.reveal()
            self._take(root_key)
            wipe_bytes(root_key)

    def _rewrap_some(self, newest: int) -> int:
        """Wraps some keys anew that an older KEK wraps; returns how many."""
        with self._store.transaction():
            data, named = self._store.keys_below(newest, _BATCH)
            for object_id, version, old in data:
                label = _data_label(object_id, version)
                self._store.replace_data_key(object_id, version, self._wrap(self._unwrap(old, label), label))
            for name, purpose, old in named:
                label = f"{purpose}:{name}"
                self._store.replace_named_key(name, purpose, self._wrap(self._unwrap(old, label), label))
        return len(data) + len(named)

    def _need_open(self) -> SecretBytes:
        if self._root is None:
            raise _locked()
        return self._root

    def _wrap(self, key: bytes, label: str) -> WrappedKey:
        """`key` under the newest KEK of the store. Inside a transaction, so that it stays the newest."""
        self._refresh()
        newest = max(self._keks)
        kek = self._keks[newest].reveal()
        try:
            return WrappedKey(newest, wrap_labelled(kek, key, label))
        finally:
            wipe_bytes(kek)

    def _unwrap(self, wrapped: WrappedKey, label: str) -> bytes:
        self._need_open()
        if wrapped.kek not in self._keks:
            self._refresh()
        held = self._keks.get(wrapped.kek)
        if held is None:
            raise self._damaged("the key-encryption key of a stored key")
        kek = held.reveal()
        try:
            key = unwrap_labelled(kek, wrapped.wrapped, label)
        except UnwrapError:
            raise self._damaged("a stored key") from None
        finally:
            wipe_bytes(kek)
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
