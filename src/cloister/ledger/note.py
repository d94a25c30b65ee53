"""Signed tree heads: C2SP signed notes in the form of tlog-checkpoint, with one Ed25519 key.

Knows the text format only; not where a tree head is kept.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloister.errors import InvalidInput

_ED25519 = b"\x01"
_DASH = "\N{EM DASH} "


class NoteError(Exception):
    """The text is no tree head, or its signature is wrong. The message says which; it holds no content."""


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A tree's size and root, and the note that signs them where there is one."""

    size: int
    root: bytes
    signed_note: str | None = None


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name it signs under."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def of(cls, origin: str, signer: Ed25519PrivateKey) -> VerifierKey:
        return cls(origin, signer.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = _decode(encoded, "the verifier key")
        key = cls(name, raw[1:])
        if raw[:1] != _ED25519 or len(raw) != 33 or key.id.hex() != key_id:
            raise NoteError("it is not an Ed25519 verifier key, or its key id does not match")
        return key


def _decode(text: str, what: str) -> bytes:
    """Base64 in its one form: unused bits are zero, so that no other text stands for the same bytes."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise NoteError(f"{what} is malformed") from None
    if base64.b64encode(raw).decode() != text:
        raise NoteError(f"{what} is malformed")
    return raw


def check_origin(origin: str) -> None:
    """Raises InvalidInput unless the text can name a log and its key."""
    control = any(character < " " or character == "\x7f" for character in origin)
    if not origin or "+" in origin or control or any(character.isspace() for character in origin):
        raise InvalidInput(
            "An origin is a name without spaces, control characters and '+'.", where="ledger origin"
        )


def head_text(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def sign_head(signer: Ed25519PrivateKey, origin: str, size: int, root: bytes) -> TreeHead:
    text = head_text(origin, size, root)
    signature = VerifierKey.of(origin, signer).id + signer.sign(text.encode())
    note = f"{text}\n{_DASH}{origin} {base64.b64encode(signature).decode()}\n"
    return TreeHead(size, root, note)


def parse_head(note: str) -> tuple[str, TreeHead]:
    """Origin and tree head of a note, its signature not checked.

    Raises:
        NoteError: the note has not the form of a tree head.
    """
    text, separator, _ = note.rpartition("\n\n")
    lines = text.split("\n")
    if not separator or len(lines) < 3 or not all(lines) or not lines[1].isascii() or not lines[1].isdigit():
        raise NoteError("it has not the form of a tree head")
    root = _decode(lines[2], "its root")
    size = int(lines[1]) if len(lines[1]) <= 19 else -1
    if len(root) != 32 or str(size) != lines[1]:
        raise NoteError("its size or root is malformed")
    return lines[0], TreeHead(size, root, note)


def check_ed25519(public: bytes, signature: bytes, message: bytes) -> None:
    """Raises NoteError unless it is the key's signature of the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise NoteError("its signature is wrong") from None


def check_signature(note: str, key: VerifierKey) -> None:
    """Raises NoteError unless the key's signature stands under the note and is right."""
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise NoteError("it carries no signature")
    found = False
    for line in signatures[:-1].split("\n"):
        name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        raw = _decode(encoded, "a signature line")
        if not line.startswith(_DASH) or len(raw) < 5:
            raise NoteError("a signature line is malformed")
        if name == key.name and raw[:4] == key.id:
            found = True
            check_ed25519(key.public, raw[4:], (text + "\n").encode())
    if not found:
        raise NoteError("it is not signed by this ledger's key")
