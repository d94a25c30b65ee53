"""The sealed format: C2SP chunked encryption, instance Cobblestone-256 (c2sp.org/chunked-encryption).

Key derivation, sizes and nonces, as pure functions. Knows no files, no key store and no objects
beyond the context string that binds a file to its place.

    salt (24) || commitment (32) || chunk 0 || chunk 1 || …

Each chunk is AES-256-GCM over 16 KiB of plaintext, the last one always shorter, possibly empty.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from cloister.errors import InvalidInput

CHUNK = 16_384
TAG = 16
STRIDE = CHUNK + TAG
SALT = 24
COMMITMENT = 32
HEADER = SALT + COMMITMENT
KEY_BYTES = 32

_SCHEME = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
_CONTEXT_LABEL = b"cloister/object@v1\x00"
_MAX_SEALED = 1 << 62


class FileKeys(NamedTuple):
    """What one data key, salt and context give: the chunk key, the base nonce and the commitment."""

    aead_key: bytes
    base_nonce: bytes
    commitment: bytes


def check_key(key: bytes) -> bytes:
    """`key` as it came, if it has the right length; InvalidInput otherwise."""
    if len(key) != KEY_BYTES:
        raise InvalidInput("a data key has 32 bytes")
    return key


def derive_file_keys(key: bytes, salt: bytes, context: bytes) -> FileKeys:
    """HKDF-Expand-SHA-512 over the data key, as the format's text orders it."""
    block = HKDFExpand(SHA512(), 32 + 12 + COMMITMENT, _SCHEME + salt + context).derive(check_key(key))
    return FileKeys(block[:32], block[32:44], block[44:])


def sealed_size(size: int) -> int:
    """Bytes on disk of `size` bytes of plaintext."""
    return HEADER + size + TAG * (size // CHUNK + 1)


def plain_size(sealed: int) -> int | None:
    """Bytes of plaintext in a sealed file of `sealed` bytes; None where no file has that size."""
    if not HEADER + TAG <= sealed <= _MAX_SEALED:
        return None
    full, last = divmod(sealed - HEADER, STRIDE)
    return full * CHUNK + last - TAG if last >= TAG else None


def object_context(object_id: str, kind: str, version: int, path: str) -> bytes:
    """What binds a sealed file to its place: each field with its length before it.

    Two different places never give the same bytes, so a file moved to another name does not open.
    """
    if version < 1:
        raise InvalidInput("an object's version is 1 or more", where=object_id)
    fields = (object_id.encode(), kind.encode(), version.to_bytes(8, "big"), path.encode())
    return _CONTEXT_LABEL + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
