"""The unlock slot of a PKCS#11 token: a key that never leaves the token decrypts what wraps the root key.

The token's driver is foreign code: it runs in a process of its own (`token_driver`), which may crash or hang
without harm. Which drivers may be loaded is said by the caller, never by a slot.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import stat
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from cloister.errors import (
    CloisterError,
    Denied,
    InvalidInput,
    NotFound,
    Tampered,
    Unauthenticated,
    Unavailable,
    by_code,
)
from cloister.vault.canonical import canonical_json
from cloister.vault.slots import damaged_slot, parse_document, unhex, unwrap_root, wrap_root
from cloister.vault.wrapping import UnwrapError

Mechanism = Literal["rsa-oaep-sha256", "rsa-oaep-sha1", "aes-cbc"]

MAX_PIN = 255
TIMEOUT_S = 90.0
_SECRET_BYTES = 32
_MAX_ANSWER = 1 << 16
_LABEL = re.compile(r"[^\x00-\x1f\x7f]{1,32}")
_KEY_ID = re.compile(r"(?:[0-9a-f]{2}){1,64}")


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    module: str
    token: str
    key_id: str
    mechanism: Mechanism
    iv: str
    secret: str
    salt: str
    wrapped: str


class TokenSlot:
    """A secret that only the token can decrypt wraps the root key.

    Args:
        pin: the token's user PIN.
        allowed: the drivers that may be loaded, as absolute paths.
        module, token, key_id: for a new slot: the driver, the token's label, and the id (hex) of an AES key
            or of an RSA key pair on it.

    Raises InvalidInput for what cannot be right, Denied for a driver that is not allowed.
    """

    kind: ClassVar[str] = "token"

    def __init__(
        self,
        pin: str,
        *,
        allowed: Collection[Path],
        module: Path | None = None,
        token: str | None = None,
        key_id: str | None = None,
    ) -> None:
        if not 1 <= len(pin.encode()) <= MAX_PIN:
            raise InvalidInput(f"a PIN has 1 to {MAX_PIN} bytes")
        if token is not None and not _LABEL.fullmatch(token):
            raise InvalidInput("a token's label has 1 to 32 characters", where="token")
        if key_id is not None and not _KEY_ID.fullmatch(key_id):
            raise InvalidInput("a key's id is hexadecimal, in lower case, as `pkcs11-tool -O` shows it")
        self._pin = pin
        self._allowed = tuple(allowed)
        self._module, self._token, self._key_id = module, token, key_id

    def seal(self, root_key: bytes, vault_id: str) -> bytes:
        if self._module is None or self._token is None or self._key_id is None:
            raise InvalidInput("a slot for a token needs its driver, its label and a key's id")
        module = allowed_module(self._module, self._allowed)
        secret = secrets.token_bytes(_SECRET_BYTES)
        answer = self._ask(
            {
                "verb": "encrypt",
                "module": str(module),
                "token": self._token,
                "key_id": self._key_id,
                "secret": base64.b64encode(secret).decode(),
            }
        )
        salt, wrapped = wrap_root(secret, root_key, self.kind, vault_id)
        document = _Document(
            module=str(self._module),
            token=self._token,
            key_id=self._key_id,
            mechanism=answer["mechanism"],
            iv=answer["iv"],
            secret=answer["secret"],
            salt=salt,
            wrapped=wrapped,
        )
        return canonical_json(msgspec.to_builtins(document))

    def open(self, document: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        parsed = _parse(document, where, slot_id)
        salt, wrapped = unhex(parsed.salt, where, slot_id), unhex(parsed.wrapped, where, slot_id)
        module = allowed_module(Path(parsed.module), self._allowed)
        answer = self._ask(
            {
                "verb": "decrypt",
                "module": str(module),
                "token": parsed.token,
                "key_id": parsed.key_id,
                "mechanism": parsed.mechanism,
                "iv": parsed.iv,
                "secret": parsed.secret,
            }
        )
        try:
            return unwrap_root(base64.b64decode(answer["secret"]), salt, wrapped, self.kind, vault_id)
        except UnwrapError:
            raise Unauthenticated("the token's key is not the one of this slot", where=parsed.token) from None

    def reseal(self, document: bytes, root_key: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        parsed = _parse(document, where, slot_id)
        again = TokenSlot(
            self._pin,
            allowed=self._allowed,
            module=Path(parsed.module),
            token=parsed.token,
            key_id=parsed.key_id,
        )
        return again.seal(root_key, vault_id)

    @staticmethod
    def summary(document: bytes, where: str, slot_id: int) -> str:
        parsed = _parse(document, where, slot_id)
        return f"PKCS#11 token {parsed.token!r}, key {parsed.key_id}, {parsed.mechanism}, {parsed.module}"

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the driver's process answers. Raises what it found wrong, or Unavailable where it fell."""
        asked = json.dumps({**request, "pin": self._pin}).encode()
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", "cloister.vault.token_driver"],
                input=asked,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                timeout=TIMEOUT_S,
                check=False,
            )
            answer = json.loads(ended.stdout[:_MAX_ANSWER])
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"the token did not answer for {TIMEOUT_S:.0f} s", where=request["module"]
            ) from None
        except ValueError:
            raise Unavailable(
                f"the token's driver fell (exit status {ended.returncode})",
                where=request["module"],
                remedy="Try the token with `pkcs11-tool`.",
            ) from None
        if "code" in answer:
            raise _error(answer)
        return dict(answer)


def allowed_module(module: Path, allowed: Collection[Path]) -> Path:
    """The driver's real path. Raises Denied unless it is one of `allowed`, and safe from other accounts."""
    remedy = "Name it under `vault: pkcs11_modules` in appliance.yaml, if it is the token's driver."
    if not module.is_absolute():
        raise Denied("a token's driver is named by its absolute path", where=str(module)[:200])
    try:
        real = module.resolve(strict=True)
    except OSError:
        raise NotFound("no such driver", where=str(module)[:200]) from None
    if real not in {_resolved(path) for path in allowed}:
        raise Denied("this driver is not allowed", where=str(module)[:200], remedy=remedy)
    status = real.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
        raise Denied("other accounts may change this driver", where=str(real), remedy="Mend owner and mode.")
    return real


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except OSError:
        return path


def _error(answer: dict[str, Any]) -> CloisterError:
    kind = by_code(str(answer["code"]))
    return kind(
        str(answer.get("message", ""))[:500],
        where=str(answer["where"])[:200] if answer.get("where") else None,
        remedy=str(answer["remedy"])[:500] if answer.get("remedy") else None,
    )


def _parse(document: bytes, where: str, slot_id: int) -> _Document:
    parsed = parse_document(document, _Document, where, slot_id)
    if not (_LABEL.fullmatch(parsed.token) and _KEY_ID.fullmatch(parsed.key_id)):
        raise damaged_slot(where, slot_id)
    if len(parsed.module) > 4096 or "\x00" in parsed.module:
        raise Tampered("a slot's driver has no path", where=where)
    return parsed
