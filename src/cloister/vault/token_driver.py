"""`python -m cloister.vault.token_driver`: one request to a PKCS#11 token, in a process of its own.

Reads a JSON request with the PIN from standard input and answers one JSON object. It knows the token's
interface, and nothing of vaults and slots.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

import pkcs11
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as wrong

from cloister.vault.memory import refuse_dumps

_MAX_REQUEST = 1 << 16
_OAEP = {
    "rsa-oaep-sha256": (Mechanism.SHA256, MGF.SHA256, None),
    "rsa-oaep-sha1": (Mechanism.SHA_1, MGF.SHA1, None),
}


class Refused(Exception):
    """What the token or its driver would not do: a code of `cloister.errors`, and words for a person."""

    def __init__(self, code: str, message: str, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.answer = {"code": code, "message": message, "where": where, "remedy": remedy}


def main() -> int:
    """Answer one request; the exit status is 0 where there is an answer, be it a refusal."""
    refuse_dumps()
    with os.fdopen(0, "rb", closefd=False) as asked:  # what is longer than a page comes in pieces
        request = json.loads(asked.read(_MAX_REQUEST))
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # drivers print
        os.dup2(null, descriptor)
    try:
        answer = answer_of(request)
    except Refused as error:
        answer = error.answer
    os.write(out, json.dumps(answer).encode())
    return 0


def answer_of(request: dict[str, Any]) -> dict[str, Any]:
    """Encrypt or decrypt a secret of 32 bytes with the token's key. Raises Refused."""
    label = request["token"]
    try:
        token = pkcs11.lib(request["module"]).get_token(token_label=label)
    except wrong.NoSuchToken:
        raise Refused("unavailable", "the token is not there", label, "Plug it in, and try again.") from None
    except wrong.MultipleTokensReturned:
        raise Refused("conflict", "several tokens have this label", label, "Leave one plugged in.") from None
    except (wrong.PKCS11Error, RuntimeError) as error:
        raise Refused(
            "unavailable", f"the driver cannot be used ({type(error).__name__})", request["module"]
        ) from None
    try:
        with token.open(user_pin=request["pin"]) as session:
            if request["verb"] == "encrypt":
                return _encrypt(session, request)
            return {"secret": base64.b64encode(_decrypt(session, request)).decode()}
    except (wrong.PinIncorrect, wrong.PinLenRange, wrong.PinInvalid):
        remedy = "Mind that most tokens lock themselves after a few wrong ones."
        raise Refused("unauthenticated", "the PIN is wrong", label, remedy) from None
    except (wrong.PinLocked, wrong.PinExpired):
        raise Refused(
            "denied", "the token has locked its PIN", label, "Unblock it with its own tool."
        ) from None
    except (wrong.TokenNotPresent, wrong.DeviceRemoved, wrong.TokenNotRecognised):
        raise Refused(
            "unavailable", "the token was taken away", label, "Plug it in, and try again."
        ) from None
    except wrong.PKCS11Error as error:
        raise Refused("unavailable", f"the token refuses ({type(error).__name__})", label) from None


def _key(session: Any, request: dict[str, Any], kind: ObjectClass) -> Any:
    try:
        return session.get_key(object_class=kind, id=bytes.fromhex(request["key_id"]))
    except wrong.NoSuchKey:
        return None
    except wrong.MultipleObjectsReturned:
        raise Refused("conflict", "several keys have this id", request["token"]) from None


def _encrypt(session: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The secret under the token's key, in a way in which the token was seen to decrypt it again."""
    secret = base64.b64decode(request["secret"])
    private = _key(session, request, ObjectClass.PRIVATE_KEY)
    symmetric = _key(session, request, ObjectClass.SECRET_KEY) if private is None else None
    found = private if private is not None else symmetric
    if found is None:
        raise Refused(
            "not-found", f"no key {request['key_id']} on it", request["token"], "See `pkcs11-tool -O`."
        )
    if found.key_type not in (KeyType.RSA, KeyType.AES):
        raise Refused("invalid-input", "the key is neither AES nor RSA", request["token"])
    if private is None:
        iv = os.urandom(16)
        sealed = found.encrypt(secret, mechanism=Mechanism.AES_CBC, mechanism_param=iv)
        answer = {"mechanism": "aes-cbc", "iv": iv.hex(), "secret": bytes(sealed).hex()}
        return _proved(session, request, answer, secret)
    public = _key(session, request, ObjectClass.PUBLIC_KEY)
    if public is None:
        raise Refused("not-found", "the public key is missing on it", request["token"])
    for mechanism in _OAEP:
        answer = {"mechanism": mechanism, "iv": "", "secret": _oaep(public, secret, mechanism).hex()}
        try:
            return _proved(session, request, answer, secret)
        except wrong.PKCS11Error:
            continue
    raise Refused("invalid-input", "the token does not decrypt RSA-OAEP", request["token"])


def _proved(session: Any, request: dict[str, Any], answer: dict[str, Any], secret: bytes) -> dict[str, Any]:
    if _decrypt(session, {**request, **answer}) != secret:
        raise Refused("unavailable", "the token does not decrypt what its key encrypted", request["token"])
    return answer


def _decrypt(session: Any, request: dict[str, Any]) -> bytes:
    mechanism = request["mechanism"]
    kind = ObjectClass.SECRET_KEY if mechanism == "aes-cbc" else ObjectClass.PRIVATE_KEY
    key = _key(session, request, kind)
    if key is None:
        raise Refused("not-found", f"the key {request['key_id']} is no longer on it", request["token"])
    sealed = bytes.fromhex(request["secret"])
    if mechanism == "aes-cbc":
        iv = bytes.fromhex(request["iv"])
        return bytes(key.decrypt(sealed, mechanism=Mechanism.AES_CBC, mechanism_param=iv))
    return bytes(key.decrypt(sealed, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=_OAEP[mechanism]))


def _oaep(public: Any, secret: bytes, mechanism: str) -> bytes:
    """RSA-OAEP with the exported public key: tokens need not know how to encrypt."""
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

    modulus = int.from_bytes(public[Attribute.MODULUS], "big")
    exponent = int.from_bytes(public[Attribute.PUBLIC_EXPONENT], "big")
    digest: HashAlgorithm = SHA256() if mechanism == "rsa-oaep-sha256" else SHA1()  # noqa: S303
    oaep = padding.OAEP(padding.MGF1(digest), digest, None)
    return rsa.RSAPublicNumbers(exponent, modulus).public_key().encrypt(secret, oaep)


if __name__ == "__main__":
    sys.exit(main())
