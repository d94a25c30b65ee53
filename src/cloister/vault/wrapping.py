"""Keys under keys: AES-256-KWP (RFC 5649, SP 800-38F), each bound to the name of what it is.

Knows no storage. KWP has no associated data, so a digest of the label is wrapped with the key: a
wrapped key put in another one's place does not open.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from cloister.vault.memory import wipe_bytes

_LABEL_BYTES = 16
_NO_KEY = bytes(32)


class UnwrapError(Exception):
    """The wrapped key was changed, or wrapped by another key, or under another label."""


def wrap(wrapping_key: bytes, key: bytes) -> bytes:
    """AES-KWP of any key of 1 byte or more."""
    return aes_key_wrap_with_padding(wrapping_key, key)


def unwrap(wrapping_key: bytes, wrapped: bytes) -> bytes:
    """The key of `wrap`. Raises UnwrapError."""
    try:
        key = aes_key_unwrap_with_padding(wrapping_key, wrapped)
    except (InvalidUnwrap, ValueError):
        raise UnwrapError from None
    _overwrite_scratch(len(key))
    return key


def wrap_labelled(wrapping_key: bytes, key: bytes, label: str) -> bytes:
    """Wraps `key` together with what it is for."""
    both = _mark(label) + key
    try:
        return wrap(wrapping_key, both)
    finally:
        wipe_bytes(both)


def unwrap_labelled(wrapping_key: bytes, wrapped: bytes, label: str) -> bytes:
    """The key of `wrap_labelled` with the same label. Raises UnwrapError."""
    both = unwrap(wrapping_key, wrapped)
    try:
        if not hmac.compare_digest(both[:_LABEL_BYTES], _mark(label)):
            raise UnwrapError
        return both[_LABEL_BYTES:]
    finally:
        wipe_bytes(both)


def _overwrite_scratch(length: int) -> None:
    """Lets the library unwrap zeros: it frees its scratch memory without wiping it, and takes the same again."""
    aes_key_unwrap_with_padding(_NO_KEY, aes_key_wrap_with_padding(_NO_KEY, bytes(length)))


def _mark(label: str) -> bytes:
    return hashlib.sha256(b"cloister/key@v1\x00" + label.encode()).digest()[:_LABEL_BYTES]
