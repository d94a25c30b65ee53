"""The unlock slot of a service: a random key that systemd decrypts for it at start (`LoadCredentialEncrypted=`).

systemd binds the stored credential to the host or its TPM; here it is a file of random bytes in the folder
that `$CREDENTIALS_DIRECTORY` names. Knows nothing of systemd but that folder.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import ClassVar

import msgspec

from cloister.errors import InvalidInput, NotFound, Tampered, Unauthenticated
from cloister.vault.canonical import canonical_json
from cloister.vault.files import read_whole
from cloister.vault.slots import damaged_slot, parse_document, unhex, unwrap_root, wrap_root
from cloister.vault.wrapping import UnwrapError

DEFAULT_NAME = "cloister-unlock"
KEY_BYTES = 32
MAX_KEY_BYTES = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    salt: str
    wrapped: str


class CredentialSlot:
    """HKDF of a random key wraps the root key.

    Args:
        key: 32 to 4096 random bytes. It is not stretched, so a passphrase has no place here.
        name: of the credential that holds it.
    """

    kind: ClassVar[str] = "credential"

    def __init__(self, key: bytes, name: str = DEFAULT_NAME) -> None:
        if not KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            raise InvalidInput(
                f"a credential has {KEY_BYTES} to {MAX_KEY_BYTES} random bytes", where=name[:64]
            )
        if not _NAME.fullmatch(name):
            raise InvalidInput("not a name for a credential", where=repr(name[:64]))
        self._key, self._name = key, name

    @staticmethod
    def new_key() -> bytes:
        """A fresh key to give to systemd."""
        return secrets.token_bytes(KEY_BYTES)

    def seal(self, root_key: bytes, vault_id: str) -> bytes:
        salt, wrapped = wrap_root(self._key, root_key, self.kind, vault_id)
        return canonical_json(msgspec.to_builtins(_Document(self._name, salt, wrapped)))

    def open(self, document: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        parsed = _parse(document, where, slot_id)
        salt, wrapped = unhex(parsed.salt, where, slot_id), unhex(parsed.wrapped, where, slot_id)
        try:
            return unwrap_root(self._key, salt, wrapped, self.kind, vault_id)
        except UnwrapError:
            raise Unauthenticated(
                "the credential is not the one of this vault",
                where=parsed.name,
                remedy="Give it the credential that was made with the slot, or unlock in another way.",
            ) from None

    def reseal(self, document: bytes, root_key: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        return CredentialSlot(self._key, _parse(document, where, slot_id).name).seal(root_key, vault_id)

    @staticmethod
    def summary(document: bytes, where: str, slot_id: int) -> str:
        return f"credential {_parse(document, where, slot_id).name}"


def credential_name(document: bytes, where: str, slot_id: int) -> str:
    """The name of the credential that a slot asks for. Raises Tampered."""
    return _parse(document, where, slot_id).name


def read_credential(folder: Path, name: str) -> bytes | None:
    """The credential of that name from the folder that systemd made; None where it has none.

    Raises Tampered for a link or a device in its place, InvalidInput for one that is too large.
    """
    if not _NAME.fullmatch(name):
        raise Tampered("not a name for a credential", where=repr(name[:64]))
    try:
        return read_whole(folder, name, MAX_KEY_BYTES)
    except NotFound:
        return None


def _parse(document: bytes, where: str, slot_id: int) -> _Document:
    parsed = parse_document(document, _Document, where, slot_id)
    if not _NAME.fullmatch(parsed.name):
        raise damaged_slot(where, slot_id)
    return parsed
