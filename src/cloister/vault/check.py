"""Checking what is stored: manifests, signatures, files, headers against their keys, and strays.

Names everything that is wrong, and goes on. Decrypts no chunk: that a header's commitment fits a key shows that
the key is the file's. Knows no jobs and no users; what should be there is told to it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister.errors import CloisterError
from cloister.vault.format import SALT, derive_file_keys, object_context
from cloister.vault.keys import Vault
from cloister.vault.manifest import MANIFEST_NAME, Manifest, verify_manifest
from cloister.vault.memory import wipe_bytes
from cloister.vault.objects import check_member, open_member
from cloister.vault.store import ObjectStore


class Expected(NamedTuple):
    """An object version that should be there, and the digest of its manifest."""

    kind: str
    object_id: str
    version: int
    manifest_sha256: str


class Problem(NamedTuple):
    """One thing that is wrong: the file or object, and what it is."""

    where: str
    what: str


def check_keys(vault: Vault) -> tuple[int, list[Problem]]:
    """How many keys are stored, and what is wrong with the key store."""
    count, found = vault.survey()
    return count, [Problem(error.where or "", error.message) for error in found]


def check_object(
    store: ObjectStore,
    vault: Vault,
    expected: Expected,
    *,
    signer: Ed25519PublicKey,
    full: bool = True,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Problem]:
    """What is wrong with one object version: its manifest, its files, and whether its key is theirs.

    With `full`, each file's SHA-256 is compared; without, size and header. `progress` is told the bytes.
    """
    kind, object_id, version, digest = expected
    try:
        manifest = store.manifest(kind, object_id, version, sha256=digest)
        folder = store.folder(kind, object_id, version)
        verify_manifest(manifest, signer, where=str(folder / MANIFEST_NAME))
    except CloisterError as error:
        return [Problem(error.where or object_id, error.message)]
    problems = [Problem(error.where or object_id, error.message) for error in store.strays_in(manifest)]
    key: bytes | None = None
    if manifest.sealed:
        try:
            key = vault.data_key(object_id, version)
        except CloisterError as error:
            problems.append(Problem(error.where or object_id, error.message))
    for record in manifest.files:
        try:
            if full:
                check_member(folder, record, progress=progress)
            else:
                os.close(open_member(folder, record))
        except CloisterError as error:
            problems.append(Problem(error.where or object_id, error.message))
        if (
            key is not None
            and record.header is not None
            and not _fits(manifest, record.path, record.header, key)
        ):
            problems.append(Problem(str(folder / record.path), "its header does not fit the object's key"))
    if key is not None:
        wipe_bytes(key)
    return problems


def strays(
    store: ObjectStore,
    vault: Vault,
    expected: Collection[Expected],
    *,
    awaited: Collection[tuple[str, int]] = (),
) -> Iterator[Problem]:
    """Object versions and keys that nothing names. `awaited` are those of jobs that have not ended well."""
    named = {(object_id, version) for _, object_id, version, _ in expected}
    for found in store.list():
        if (found.object_id, found.version) not in named:
            yield Problem(str(found.folder), "an object version that no record names")
    for object_id, version in vault.keyed_versions():
        if (object_id, version) not in named and (object_id, version) not in awaited:
            yield Problem(f"{object_id} version {version}", "a data key without an object")


def _fits(manifest: Manifest, path: str, header: str, key: bytes) -> bool:
    raw = bytes.fromhex(header)
    context = object_context(manifest.object_id, manifest.kind, manifest.version, path)
    return hmac.compare_digest(derive_file_keys(key, raw[:SALT], context).commitment, raw[SALT:])
