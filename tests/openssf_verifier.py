"""A verifier of OpenSSF model signatures by a key, written from the formats' texts; it shares nothing with ours.

sigstore bundle v0.3, DSSE v1 (protocol.md), in-toto statement v1, and the rules of sigstore/model-transparency
1.x: one subject, whose digest is over the resources' digests in their order; each file of the folder a resource,
but for the ignored paths; no symbolic link.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class NotVerifiedError(Exception):
    """Which rule does not hold."""


def require(holds: object, rule: str) -> None:
    if not holds:
        raise NotVerifiedError(rule)


def verify(folder: Path, public_pem: bytes) -> dict[str, Any]:
    """The statement. Raises NotVerifiedError unless the folder is, to the file, what that key has signed."""
    bundle = json.loads((folder / "model.sig").read_bytes())
    require(bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json", "a bundle v0.3")
    material = bundle["verificationMaterial"]
    require(material["tlogEntries"] == [], "no entry of a public log")
    require(material["publicKey"]["hint"] == hashlib.sha256(public_pem).hexdigest(), "the key's hint")
    envelope = bundle["dsseEnvelope"]
    kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
    require(kind == "application/vnd.in-toto+json", "the payload's type")
    require(len(envelope["signatures"]) == 1, "one signature")
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    key = serialization.load_pem_public_key(public_pem)
    require(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1", "a key on P-256")
    try:
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        key.verify(signature, encoded, ec.ECDSA(hashes.SHA256()))  # type: ignore[union-attr]
    except InvalidSignature:
        raise NotVerifiedError("the signature") from None
    statement: dict[str, Any] = json.loads(payload)
    require(statement["_type"] == "https://in-toto.io/Statement/v1", "the statement's type")
    require(statement["predicateType"] == "https://model_signing/signature/v1.0", "the predicate's type")
    predicate = statement["predicate"]
    rules = predicate["serialization"]
    require(
        rules["method"] == "files" and rules["hash_type"] == "sha256" and not rules["allow_symlinks"], "rules"
    )
    resources = {one["name"]: one["digest"] for one in predicate["resources"]}
    require(list(resources) == sorted(resources), "resources in order, each once")
    require(len(resources) == len(predicate["resources"]), "no resource twice")
    require(all(one["algorithm"] == "sha256" for one in predicate["resources"]), "SHA-256")
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in resources.values())).hexdigest()
    (subject,) = statement["subject"]
    require(subject["digest"] == {"sha256": whole}, "the subject's digest")
    require(not any(path.is_symlink() for path in folder.rglob("*")), "no link")
    ignored = {"model.sig", *rules["ignore_paths"]}
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and str(path.relative_to(folder)) not in ignored
    }
    require(found == resources, "each file as it was signed, and no other")
    return statement
