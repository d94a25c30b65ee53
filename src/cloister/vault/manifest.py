"""What an object version is made of: its manifest, as canonical JSON (RFC 8785), and its signature.

Parsing is strict and bounded: only the canonical bytes of a valid manifest are one. Knows no keys of
sealed files; whether a manifest is the right one is said by its digest or its signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from binascii import Error as Base64Error
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloister.errors import InvalidInput, Tampered
from cloister.vault.canonical import canonical_json
from cloister.vault.files import PART_SUFFIX, read_whole, write_whole
from cloister.vault.format import HEADER, sealed_size
from cloister.vault.writer import FileSeal

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 8 << 20
MAX_FILES = 10_000
MAX_INPUTS = 1_000
MAX_PATH = 512

FileRecord = FileSeal
"""One file of an object: what its writer found out when it closed."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=,-]{0,127}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER = re.compile(rf"[0-9a-f]{{{2 * HEADER}}}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


class InputRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object version that this one was made from, pinned by its manifest's digest."""

    object_id: str
    version: int
    manifest_sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One object version.

    Attributes:
        created_at: ISO 8601 with an offset.
        sealed: whether the files are sealed; a base model's lie in the open.
        inputs: what it was made from.
        config_digest: of the frozen configuration that made it.
        counts: numbers of things (`rows`, `tokens`).
        details: JSON of the verb that made it; never content.
        created_by, ledger_index, signature: added by the authority. The signature is Ed25519 over the
            canonical JSON without it, in base64.
    """

    format: int = FORMAT
    object_id: str
    kind: str
    version: int
    created_at: str
    sealed: bool
    files: tuple[FileRecord, ...]
    inputs: tuple[InputRef, ...] = ()
    config_digest: str | None = None
    counts: dict[str, int] = {}
    details: dict[str, Any] = {}
    created_by: str | None = None
    ledger_index: int | None = None
    signature: str | None = None

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise ValueError(problem)

    def canonical(self) -> bytes:
        """The bytes on disk."""
        return _canonical(self, msgspec.to_builtins(self))

    @property
    def sha256(self) -> str:
        """The digest that pins this manifest: of its bytes on disk, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def sealed_bytes(self) -> int:
        """Bytes on disk of all files."""
        return sum(record.sealed_size for record in self.files)

    def record(self, path: str) -> FileRecord | None:
        """The file of that path."""
        return next((record for record in self.files if record.path == path), None)


def check_path(path: str) -> str:
    """`path` as it came, if it may name a file of an object; InvalidInput otherwise.

    Relative, `/` between parts, parts of letters, digits and `. _ + @ = , -` that begin with a letter,
    a digit or `_`; neither a manifest nor a part file.
    """
    parts = path.split("/")
    if len(path) > MAX_PATH or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidInput("a file's path in an object is relative, of plain names", where=repr(path[:80]))
    if path == MANIFEST_NAME or path.endswith(PART_SUFFIX):
        raise InvalidInput("this name is reserved", where=path)
    return path


def check_word(word: str, what: str) -> str:
    """`word` as it came, if it can name a folder (an id or a kind); InvalidInput otherwise."""
    if not _WORD.fullmatch(word):
        raise InvalidInput(f"not {what}", where=repr(word[:80]))
    return word


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest of these bytes. Raises Tampered, naming `where`, for anything but its canonical form."""
    remedy = "Restore it from a backup."
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
        same = manifest.canonical() == data
    except (msgspec.MsgspecError, ValueError, RecursionError, InvalidInput):
        raise Tampered("not a manifest", where=where, remedy=remedy) from None
    if not same:
        raise Tampered("not a manifest in canonical form", where=where, remedy=remedy)
    return manifest


def read_manifest(folder: Path, *, sha256: str | None = None) -> Manifest:
    """The manifest in `folder`; with `sha256`, exactly that one. Raises NotFound or Tampered."""
    where = str(folder / MANIFEST_NAME)
    try:
        data = read_whole(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    except InvalidInput:
        raise Tampered("too large for a manifest", where=where) from None
    if sha256 is not None and not hmac.compare_digest(hashlib.sha256(data).hexdigest(), sha256):
        raise Tampered("not the manifest that was recorded", where=where, remedy="Restore it from a backup.")
    return parse_manifest(data, where)


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Writes `manifest.json` atomically; returns its digest."""
    data = manifest.canonical()
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidInput("too large for a manifest", where=str(folder / MANIFEST_NAME))
    return write_whole(folder / MANIFEST_NAME, data)


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> Manifest:
    """The same manifest with `signature` by `key`."""
    signature = base64.b64encode(key.sign(_signed_bytes(manifest))).decode()
    return msgspec.structs.replace(manifest, signature=signature)


def verify_manifest(manifest: Manifest, key: Ed25519PublicKey, *, where: str) -> None:
    """Raises Tampered, naming `where`, unless `manifest` bears a signature by `key`."""
    try:
        key.verify(base64.b64decode(manifest.signature or "", validate=True), _signed_bytes(manifest))
    except (InvalidSignature, Base64Error, ValueError):
        raise Tampered("the manifest's signature does not fit", where=where) from None


def _signed_bytes(manifest: Manifest) -> bytes:
    plain = msgspec.to_builtins(manifest)
    del plain["signature"]
    return _canonical(manifest, plain)


def _canonical(manifest: Manifest, plain: Any) -> bytes:
    try:
        return canonical_json(plain)
    except ValueError as error:
        raise InvalidInput(f"no canonical JSON: {error}", where=manifest.object_id) from None


def _problem(manifest: Manifest) -> str | None:
    """What is wrong with it, or None."""
    if manifest.format != FORMAT:
        return "unknown format"
    if not (_WORD.fullmatch(manifest.object_id) and _WORD.fullmatch(manifest.kind)):
        return "no object id or kind"
    if manifest.version < 1 or not _TIME.fullmatch(manifest.created_at):
        return "no version or time"
    if len(manifest.files) > MAX_FILES or len(manifest.inputs) > MAX_INPUTS:
        return "too many files or inputs"
    paths = [record.path for record in manifest.files]
    if len(set(paths)) != len(paths):
        return "a path twice"
    for record in manifest.files:
        try:
            check_path(record.path)
        except InvalidInput:
            return "a path outside the rules"
        right = sealed_size(record.size) if manifest.sealed else record.size
        if record.size < 0 or record.sealed_size != right or not _SHA256.fullmatch(record.sha256):
            return "a file's size or digest"
        if manifest.sealed != (record.header is not None and bool(_HEADER.fullmatch(record.header))):
            return "a file's header"
        if not manifest.sealed and record.header is not None:
            return "a file's header"
    for ref in manifest.inputs:
        if (
            not _WORD.fullmatch(ref.object_id)
            or ref.version < 1
            or not _SHA256.fullmatch(ref.manifest_sha256)
        ):
            return "an input"
    return None
