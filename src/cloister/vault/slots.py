"""Unlock slots: ways to open the root key, several at a time, each a kind and a JSON document.

A slot's document is stored with a digest, so that a damaged one is told from a wrong passphrase; and
its cost is bounded when read, so that a hostile one cannot ask for a terabyte. Knows no database.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeVar

import msgspec
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.errors import CloisterError, InvalidInput, NotFound, Tampered, Unauthenticated
from cloister.vault.canonical import canonical_json
from cloister.vault.wrapping import UnwrapError, unwrap_labelled, wrap_labelled

MAX_DOCUMENT = 16_384
MAX_PASSPHRASE = 1024
SALT_BYTES = 16

Document = TypeVar("Document", bound=msgspec.Struct)

_MEMORY_KIB = (8 * 1024, 4 * 1024 * 1024)
_ITERATIONS = (1, 64)
_LANES = (1, 16)
_MAX_WORK_KIB = 16 * 1024 * 1024


class ArgonParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Argon2id's cost (RFC 9106): memory in KiB, passes over it, lanes. The default takes about a second."""

    memory_kib: int = 256 * 1024
    iterations: int = 3
    lanes: int = 4

    def within_bounds(self) -> bool:
        """Whether this is neither too weak to keep nor too costly to try."""
        return (
            _MEMORY_KIB[0] <= self.memory_kib <= _MEMORY_KIB[1]
            and _ITERATIONS[0] <= self.iterations <= _ITERATIONS[1]
            and _LANES[0] <= self.lanes <= _LANES[1]
            and self.memory_kib * self.iterations <= _MAX_WORK_KIB
        )


class StoredSlot(msgspec.Struct, frozen=True):
    """A slot as kept: its number, kind and document, and a digest of these and the vault's id."""

    slot_id: int
    kind: str
    document: bytes
    digest: bytes

    @classmethod
    def of(cls, slot_id: int, kind: str, document: bytes, vault_id: str) -> StoredSlot:
        return cls(slot_id, kind, document, _digest(slot_id, kind, document, vault_id))

    def checked(self, vault_id: str, where: str) -> bytes:
        """The document, undamaged. Raises Tampered, naming `where` and the slot."""
        if not self.intact(vault_id):
            raise damaged_slot(where, self.slot_id)
        return self.document

    def intact(self, vault_id: str) -> bool:
        """Whether its digest fits."""
        right = _digest(self.slot_id, self.kind, self.document, vault_id)
        return len(self.document) <= MAX_DOCUMENT and hmac.compare_digest(right, self.digest)


class UnlockSlot(Protocol):
    """One kind of slot, with the secret that opens it at hand."""

    kind: ClassVar[str]

    def seal(self, root_key: bytes, vault_id: str) -> bytes:
        """A document that gives `root_key` back to who has the secret."""

    def open(self, document: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        """The root key. Raises Unauthenticated (wrong secret) or Tampered (no document of this kind)."""

    def reseal(self, document: bytes, root_key: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        """A document like this one, opened by the same secret, that gives another root key."""

    @staticmethod
    def summary(document: bytes, where: str, slot_id: int) -> str:
        """What the document says of itself, in a few words without secrets. Raises Tampered."""


class _PassphraseDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    salt: str
    argon: ArgonParams
    wrapped: str


class PassphraseSlot:
    """Argon2id of a passphrase wraps the root key."""

    kind: ClassVar[str] = "passphrase"

    def __init__(self, passphrase: bytes, argon: ArgonParams | None = None) -> None:
        if not 1 <= len(passphrase) <= MAX_PASSPHRASE:
            raise InvalidInput(f"a passphrase has 1 to {MAX_PASSPHRASE} bytes")
        self._passphrase = passphrase
        self._argon = argon if argon is not None else ArgonParams()

    def seal(self, root_key: bytes, vault_id: str) -> bytes:
        if not self._argon.within_bounds():
            raise InvalidInput("these Argon2id parameters are out of bounds")
        salt = secrets.token_bytes(SALT_BYTES)
        wrapped = wrap_labelled(self._derive(salt, self._argon, vault_id), root_key, root_label(vault_id))
        document = _PassphraseDocument(salt.hex(), self._argon, wrapped.hex())
        return canonical_json(msgspec.to_builtins(document))

    def open(self, document: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        parsed = parse_document(document, _PassphraseDocument, where, slot_id)
        salt, wrapped = unhex(parsed.salt, where, slot_id), unhex(parsed.wrapped, where, slot_id)
        if len(salt) != SALT_BYTES or not parsed.argon.within_bounds():
            raise Tampered(
                f"unlock slot {slot_id} asks for a key derivation out of bounds",
                where=where,
                remedy="Restore the key store from a backup.",
            )
        try:
            return unwrap_labelled(self._derive(salt, parsed.argon, vault_id), wrapped, root_label(vault_id))
        except UnwrapError:
            raise Unauthenticated("the passphrase is wrong", remedy="Try again.") from None

    def reseal(self, document: bytes, root_key: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        parsed = parse_document(document, _PassphraseDocument, where, slot_id)
        return PassphraseSlot(self._passphrase, parsed.argon).seal(root_key, vault_id)

    @staticmethod
    def summary(document: bytes, where: str, slot_id: int) -> str:
        argon = parse_document(document, _PassphraseDocument, where, slot_id).argon
        return f"Argon2id, {argon.memory_kib // 1024} MiB, {argon.iterations} passes, {argon.lanes} lanes"

    def _derive(self, salt: bytes, argon: ArgonParams, vault_id: str) -> bytes:
        context = b"cloister/passphrase@v1\x00" + vault_id.encode()
        return argon2id(self._passphrase, salt, argon, context)


def argon2id(secret: bytes, salt: bytes, argon: ArgonParams, context: bytes, length: int = 32) -> bytes:
    """Argon2id (RFC 9106) of `secret` with the associated data `context`; `length` bytes."""
    return Argon2id(
        salt=salt,
        length=length,
        iterations=argon.iterations,
        lanes=argon.lanes,
        memory_cost=argon.memory_kib,
        ad=context,
    ).derive(secret)


def wrap_root(secret: bytes, root_key: bytes, kind: str, vault_id: str) -> tuple[str, str]:
    """Salt and wrapped root key, in hex, under a `secret` of full entropy (HKDF-SHA-512, no stretching)."""
    salt = secrets.token_bytes(SALT_BYTES)
    wrapped = wrap_labelled(_wrapping_key(secret, salt, kind, vault_id), root_key, root_label(vault_id))
    return salt.hex(), wrapped.hex()


def unwrap_root(secret: bytes, salt: bytes, wrapped: bytes, kind: str, vault_id: str) -> bytes:
    """The root key of `wrap_root`. Raises UnwrapError."""
    return unwrap_labelled(_wrapping_key(secret, salt, kind, vault_id), wrapped, root_label(vault_id))


def root_label(vault_id: str) -> str:
    """What a wrapped root key is bound to."""
    return f"root:{vault_id}"


def parse_document(document: bytes, kind: type[Document], where: str, slot_id: int) -> Document:
    """A slot's document as that kind's. Raises Tampered."""
    try:
        return msgspec.json.decode(document, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise damaged_slot(where, slot_id) from None


def unhex(text: str, where: str, slot_id: int) -> bytes:
    """Bytes from a document's hexadecimal field. Raises Tampered."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise damaged_slot(where, slot_id) from None


def _wrapping_key(secret: bytes, salt: bytes, kind: str, vault_id: str) -> bytes:
    info = f"cloister/{kind}@v1\x00{vault_id}".encode()
    return HKDF(SHA512(), length=32, salt=salt, info=info).derive(secret)


def opened_by(
    stored_slots: Sequence[StoredSlot], slot: UnlockSlot, vault_id: str, where: str, number: int | None
) -> tuple[int, bytes]:
    """The first of these slots that `slot` opens, or slot `number` alone, and the root key that it gives.

    Raises NotFound (no such number), Tampered (a damaged slot, and no other opens), or what the slots of
    this kind say: a wrong secret comes before a token that is away.
    """
    remedy = "See `cloister vault slot list`."
    if number is not None:
        stored_slots = [stored for stored in stored_slots if stored.slot_id == number]
        if not stored_slots:
            raise NotFound(f"no unlock slot {number}", where=where, remedy=remedy)
    failures: list[CloisterError] = []
    for stored in stored_slots:
        try:
            document = stored.checked(vault_id, where)
            if stored.kind == slot.kind:
                return stored.slot_id, slot.open(document, vault_id, where, stored.slot_id)
        except CloisterError as error:
            failures.append(error)
    for kind in (Tampered, Unauthenticated, CloisterError):
        for failure in failures:
            if isinstance(failure, kind):
                raise failure
    raise Unauthenticated(f"no unlock slot of kind {slot.kind}", where=where, remedy=remedy)


def damaged_slot(where: str, slot_id: int) -> Tampered:
    """The error that says so."""
    return Tampered(
        f"unlock slot {slot_id} is damaged", where=where, remedy="Restore the key store from a backup."
    )


def _digest(slot_id: int, kind: str, document: bytes, vault_id: str) -> bytes:
    fields = (str(slot_id), kind, vault_id)
    head = b"".join(len(field.encode()).to_bytes(4, "big") + field.encode() for field in fields)
    return hashlib.sha256(b"cloister/slot@v1\x00" + head + document).digest()
