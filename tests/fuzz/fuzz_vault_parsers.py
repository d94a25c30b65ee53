"""Coverage-guided fuzzing of what the vault reads: sealed files, manifests, unlock slots, recovery shares.

    python fuzz_vault_parsers.py TARGET CORPUS [libFuzzer options]

A target fails on an exception that is not ours, on a hang, on memory beyond the limit, and where
something opens that must not. The corpus starts from real documents and is kept in CORPUS.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
from fuzzing import drive

with atheris.instrument_imports(include=["cloister.vault", "cloister.errors"]):
    from cloister.errors import CloisterError, InvalidInput, Tampered, Unauthenticated
    from cloister.vault import (
        CHUNK,
        ArgonParams,
        FileSeal,
        InputRef,
        Manifest,
        PassphraseSlot,
        SealedReader,
        SealedWriter,
        parse_manifest,
        slots,
        token,
    )
    from cloister.vault.credential import CredentialSlot
    from cloister.vault.shares import SharesSlot, parse_share

KEY, CONTEXT, VAULT_ID, ROOT = bytes(range(32)), b"here", "0" * 32, b"\x01" * 32
CREDENTIAL = b"\x02" * 32
PIN = "1234"
MODULE = Path("/usr/lib/fuzz.so")


class Samples:
    """Real documents of each kind, and what opens them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sealed = []
        for count in (0, 5, CHUNK, 2 * CHUNK + 9):
            with SealedWriter(folder / str(count), KEY, CONTEXT) as writer:
                writer.write(bytes(count))
            self.sealed.append((folder / str(count)).read_bytes())
        self.manifest = Manifest(
            object_id="ds-000000000000",
            kind="dataset",
            version=2,
            created_at="2026-11-21T11:00:00Z",
            sealed=True,
            files=(FileSeal("a/rows.bin", 7, 79, "cd" * 32, "ef" * 56),),
            inputs=(InputRef("bm-000000000000", 1, "ab" * 32),),
            counts={"rows": 3},
            details={"lengths": [1, 2.5, None, {"ü": True}]},
        ).canonical()
        _cheap_derivation()
        self.shares = SharesSlot.split(2, 3)
        made = [
            PassphraseSlot(b"x", ArgonParams(8192, 1, 1)).seal(ROOT, VAULT_ID),
            CredentialSlot(CREDENTIAL).seal(ROOT, VAULT_ID),
            self.shares.seal(ROOT, VAULT_ID),
            _token().reseal_for_fuzz(),
        ]
        self.documents = made
        self.openers = [
            PassphraseSlot(b"x"),
            CredentialSlot(CREDENTIAL),
            SharesSlot.joined(self.shares.mnemonics),
            _token(),
        ]


def _cheap_derivation() -> None:
    """Argon2id stands aside: it is the parser that is tried, and that it lets no cost pass."""

    def instead(secret: bytes, salt: bytes, argon: ArgonParams, context: bytes, length: int = 32) -> bytes:
        if not argon.within_bounds() or len(salt) != 16:
            raise AssertionError("a derivation out of bounds")
        return bytes(length)

    slots.argon2id = instead  # type: ignore[assignment]


class _FuzzToken(token.TokenSlot):
    """A token whose driver is not there: it decrypts to a fixed secret, and minds what it is asked."""

    def reseal_for_fuzz(self) -> bytes:
        return self.seal(ROOT, VAULT_ID)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["module"] != str(MODULE):
            raise AssertionError("a driver that nobody allowed")
        json.dumps(request)
        if request["verb"] == "encrypt":
            self.secret = base64.b64decode(request["secret"])
            return {"mechanism": "aes-cbc", "iv": "00" * 16, "secret": "11" * 32}
        return {"secret": base64.b64encode(bytes(32)).decode()}


def _token() -> _FuzzToken:
    def allowed(module: Path, allowed: object) -> Path:
        if module != MODULE:
            raise Tampered("not allowed", where=str(module))
        return module

    token.allowed_module = allowed  # type: ignore[assignment]
    return _FuzzToken(PIN, allowed=[MODULE], module=MODULE, token="t", key_id="01")


def sealed(samples: Samples, data: bytes) -> None:
    """Any bytes as a sealed file: only those that were written open, and read as zeros."""
    path = samples.folder / "hostile"
    path.write_bytes(data)
    try:
        with SealedReader(path, KEY, CONTEXT) as reader:
            content = reader.read(0, reader.size)
            if b"".join(map(bytes, reader.stream(CHUNK))) != content:
                raise AssertionError("two ways of reading differ")
    except CloisterError:
        if data in samples.sealed:
            raise AssertionError("a good file does not open") from None
        return
    if data not in samples.sealed or any(content):
        raise AssertionError("a forged file opens")


def manifest(samples: Samples, data: bytes) -> None:
    """Only the canonical bytes of a valid manifest are one."""
    with contextlib.suppress(Tampered):
        if parse_manifest(data, "x").canonical() != data:
            raise AssertionError("two byte strings are one manifest")


def slot(samples: Samples, data: bytes) -> None:
    """Any bytes as a slot's document: a root key comes out of real ones alone."""
    which, document = (data[0] % 4, data[1:]) if data else (0, data)
    opener = samples.openers[which]
    with contextlib.suppress(Tampered):
        opener.summary(document, "keystore.db", 1)
    with contextlib.suppress(Tampered, Unauthenticated):
        found = opener.open(document, VAULT_ID, "keystore.db", 1)
        if found != ROOT:
            raise AssertionError("another root key")


def share(samples: Samples, data: bytes) -> None:
    """Any text as a share: refused without echo, or a share of the right form."""
    text = data.decode(errors="replace")
    try:
        found = parse_share(text)
    except InvalidInput as error:
        if len(text) > 40 and text[:40] in str(error):
            raise AssertionError("the text is echoed") from None
        return
    if len(found.value) != 32 or found.iteration_exponent:
        raise AssertionError("a share of another form")


TARGETS: dict[str, Callable[[Samples, bytes], None]] = {
    "sealed": sealed,
    "manifest": manifest,
    "slot": slot,
    "share": share,
}


def seeds(name: str, samples: Samples) -> list[bytes]:
    """Real inputs of a target, small ones first."""
    if name == "sealed":
        return samples.sealed
    if name == "manifest":
        return [samples.manifest]
    if name == "slot":
        return [bytes([which]) + document for which, document in enumerate(samples.documents)]
    return [mnemonic.encode() for mnemonic in samples.shares.mnemonics]


if __name__ == "__main__":
    drive(Samples, TARGETS, seeds)
