"""age (C2SP) for the archives of keys: recipients, identities, passphrases. Knows nothing of what it encrypts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pyrage

from cloister.errors import InvalidInput, Unauthenticated


def parse_recipients(texts: Sequence[str]) -> list[Any]:
    """age recipients (`age1…`, `ssh-ed25519 …`, `ssh-rsa …`). Raises InvalidInput, naming the first bad one."""
    recipients = []
    for number, text in enumerate(texts, 1):
        kind: Any = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
        try:
            recipients.append(kind.Recipient.from_str(text.strip()))
        except (pyrage.RecipientError, ValueError):
            raise InvalidInput(
                "not a recipient of age",
                where=f"recipient {number}",
                remedy="Give what `age-keygen` prints as the public key (age1…), never the secret key.",
            ) from None
    return recipients


def parse_identities(text: str) -> list[Any]:
    """age identities of a file as `age-keygen` writes it, or one SSH key. Raises InvalidInput without quoting."""
    identities: list[Any] = []
    try:
        if "PRIVATE KEY-----" in text:
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                identities.append(pyrage.x25519.Identity.from_str(line.strip()))
    except (pyrage.IdentityError, ValueError):
        identities = []
    if not identities:
        raise InvalidInput(
            "not an identity of age", where="identity", remedy="Give an AGE-SECRET-KEY-1… line."
        )
    return identities


def encrypt(data: bytes, *, recipients: Sequence[Any], passphrase: str | None) -> bytes:
    """`data` as an age file for these recipients, or under a passphrase (scrypt). Exactly one of them."""
    if bool(recipients) == (passphrase is not None):
        raise InvalidInput(
            "a key archive is encrypted to recipients or under a passphrase",
            remedy="Give `--recipient age1…`, or a passphrase.",
        )
    try:
        if passphrase is not None:
            return cast(bytes, pyrage.passphrase.encrypt(data, passphrase))
        return cast(bytes, pyrage.encrypt(data, list(recipients)))
    except pyrage.EncryptError:
        raise InvalidInput("these recipients cannot be used together", where="recipient") from None


def decrypt(data: bytes, *, identities: Sequence[Any], passphrase: str | None, where: str) -> bytes:
    """The inverse of `encrypt`. Raises Unauthenticated: the bytes were checked before."""
    try:
        if passphrase is not None:
            return cast(bytes, pyrage.passphrase.decrypt(data, passphrase))
        return cast(bytes, pyrage.decrypt(data, list(identities)))
    except (pyrage.DecryptError, ValueError):
        what = "passphrase" if passphrase is not None else "identity"
        raise Unauthenticated(f"the key archive does not open with this {what}", where=where) from None
