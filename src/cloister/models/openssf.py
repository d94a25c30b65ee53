"""OpenSSF model signatures by a key: one file that says, signed, which bytes each file of a model has.

It is a sigstore bundle (v0.3) around a DSSE envelope (v1) around an in-toto statement (v1), as
`model_signing` 1.x writes and checks it (github.com/sigstore/model-transparency, `_signing/signing.py` and
`sign_ec_key.py`). Its verifier takes ECDSA keys on P-256, P-384 and P-521, and no Ed25519: ours is on P-256.
Knows digests and keys; opens no file and speaks to no transparency service.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SIGNATURE_NAME = "model.sig"
PUBLIC_KEY_NAME = "model-signing.pub.pem"

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256's base point (SP 800-186, 3.2.1.3)."""


def signing_key(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of a secret of 32 random bytes, always the same.

    64 bits more than the order has, reduced: FIPS 186-5, A.2.1.
    """
    if len(secret) != 32:
        raise ValueError("a signing key is made from 32 bytes")
    drawn = HKDF(hashes.SHA256(), 40, None, b"cloister/model-signing@v1").derive(secret)
    return ec.derive_private_key(int.from_bytes(drawn, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Its public half, as what verifies reads it: PEM of a SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def hint_of(public: bytes) -> str:
    """How a bundle names the key: SHA-256 of its PEM, in hex."""
    return hashlib.sha256(public).hexdigest()


def signature(name: str, digests: Mapping[str, bytes], key: ec.EllipticCurvePrivateKey) -> bytes:
    """The bundle for a model called `name`.

    Args:
        digests: SHA-256 of each file by its path in the model's folder. All files but the bundle itself, which
            is `model.sig` there: a verifier refuses a folder that holds others.
    """
    payload = json.dumps(_statement(name, digests), indent=2).encode()
    signed = key.sign(_encoded(payload), ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint_of(public_pem(key))}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle).encode() + b"\n"


def _statement(name: str, digests: Mapping[str, bytes]) -> dict[str, Any]:
    """Resources in the order of their paths; the subject's digest is over theirs, one behind the other."""
    ordered = sorted(digests.items())
    whole = hashlib.sha256(b"".join(digest for _, digest in ordered)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE_NAME],
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digest.hex()} for path, digest in ordered
            ],
        },
    }


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (github.com/secure-systems-lab/dsse, protocol.md, v1)."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
