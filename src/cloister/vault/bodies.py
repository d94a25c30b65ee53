"""Bodies: prompts, answers and other content that policy keeps, sealed so that their keeper cannot read them.

Each body has a key of its own. The keeper wraps that key to a public key (HPKE, RFC 9180) whose private
half lies in the vault. What stands elsewhere of a body is its commitment: HMAC-SHA-256 of the body under a
random salt that is sealed with it, so it confirms no guess. Knows no log, no request and no file.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from cloister.errors import InvalidInput, Tampered
from cloister.vault.format import KEY_BYTES, check_key

SECRET = "bodies"  # noqa: S105 - the name of the vault's secret, not the secret
"""What the private half is called in the vault: 32 bytes, an X25519 private key."""

COMMITMENT_BYTES = 32
_SALT_BYTES = 32
_LABEL = b"cloister/body@v1\x00"
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class SealedBody:
    """A body as it is kept. Without the capsule, which is kept apart, nothing opens `sealed`."""

    commitment: bytes
    kind: str
    size: int
    sealed: bytes
    capsule: bytes


def public_half(secret: bytes) -> bytes:
    """The public key, 32 bytes, to the vault's secret."""
    return X25519PrivateKey.from_private_bytes(check_key(secret)).public_key().public_bytes_raw()


def seal_body(body: bytes, kind: str, public_key: bytes, origin: str) -> SealedBody:
    """Seal a body that an entry of the log `origin` will commit to. Raises InvalidInput for a bad key."""
    try:
        recipient = X25519PublicKey.from_public_bytes(public_key)
    except ValueError:
        raise InvalidInput("not an X25519 public key") from None
    salt, key = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(KEY_BYTES)
    commitment = commit(salt, body)
    context = _context(origin, commitment)
    encryptor = Cobblestone256Encryptor(key, context)
    sealed = encryptor.update(salt + body) + encryptor.finalize()
    capsule = _HPKE.encrypt(key, recipient, info=context)
    return SealedBody(commitment, kind, len(body), sealed, capsule)


def commit(salt: bytes, body: bytes) -> bytes:
    """The salted commitment."""
    return hmac.digest(salt, body, "sha256")


def open_capsule(capsule: bytes, secret: bytes, commitment: bytes, origin: str) -> bytes:
    """A body's key, by the vault's secret. Raises Tampered."""
    try:
        private = X25519PrivateKey.from_private_bytes(check_key(secret))
        return check_key(_HPKE.decrypt(capsule, private, info=_context(origin, commitment)))
    except (InvalidTag, ValueError, InvalidInput):
        raise Tampered("the key of this body does not open", where=commitment.hex()) from None


def open_body(sealed: bytes, key: bytes, commitment: bytes, origin: str) -> bytes:
    """The body, found to be what was committed to. Raises Tampered."""
    try:
        decryptor = Cobblestone256Decryptor(check_key(key), _context(origin, commitment))
        plain = bytes(decryptor.update(sealed)) + bytes(decryptor.finalize())
    except (InvalidTag, ValueError):
        raise Tampered("this body does not open", where=commitment.hex()) from None
    salt, body = plain[:_SALT_BYTES], plain[_SALT_BYTES:]
    if len(salt) != _SALT_BYTES or not hmac.compare_digest(commit(salt, body), commitment):
        raise Tampered("this is not the body that was committed to", where=commitment.hex())
    return body


def _context(origin: str, commitment: bytes) -> bytes:
    name = origin.encode()
    return _LABEL + len(name).to_bytes(4, "big") + name + commitment
