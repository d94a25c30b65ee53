"""The archives of a backup: a pack an object version, one archive of the rest, one encrypted archive of keys.

    <backup id>.json                             the index, written last: a backup is there when it is
    packs/<manifest SHA-256>.<pack SHA-256>.tar  one object version, as it lies in the store; copied once
    objects/<backup id>.tar                      which packs, and what else its maker put in
    keys/<backup id>.age                         the key store, encrypted (C2SP age)

Each file appears whole or not at all. The key archive says the digest of the objects archive, and that one
those of the packs: whoever opens the keys knows what belongs to them. Knows neither state nor ledger.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

import msgspec

from cloister.errors import Conflict, Tampered
from cloister.vault.canonical import canonical_json
from cloister.vault.files import PART_SUFFIX, make_folders, naming, open_regular, sync_folder
from cloister.vault.hashing import HashingReader, HashingWriter
from cloister.vault.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileRecord,
    Manifest,
    parse_manifest,
    read_manifest,
)
from cloister.vault.objects import open_member

FORMAT = 1
PACKS, OBJECTS, KEYS = "packs", "objects", "keys"
MAX_DOCUMENT = 64 << 20
_BLOCK = 1 << 20
_PACK = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{64})\.tar")
_REMEDY = "Use another backup, or another copy of this one."


Document = TypeVar("Document", bound=msgspec.Struct)


class Archived(NamedTuple):
    """A file of a backup: its name in its folder, the SHA-256 of its bytes in hex, its size in bytes."""

    name: str
    sha256: str
    size: int


class PackRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object version in a backup, and the pack that holds it."""

    kind: str
    object_id: str
    version: int
    manifest_sha256: str
    pack: str


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`catalogue.json` of an objects archive."""

    backup_id: str
    packs: tuple[PackRef, ...]
    format: int = FORMAT


class LedgerFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ledger as it was then: its key, its newest signed tree head, and how many entries it had."""

    vkey: str
    head: str
    entries: int


class KeyFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`backup.json` of a key archive: what belongs to these keys."""

    backup_id: str
    made_at: str
    keys_until: str
    made_by: str
    appliance: str
    objects_sha256: str
    ledgers: dict[str, LedgerFacts]
    format: int = FORMAT


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`<backup id>.json`: what there is to know of a backup without its keys. `sha256` is of the rest of it."""

    backup_id: str
    made_at: str
    keys_until: str
    appliance: str
    objects_sha256: str
    keys_sha256: str
    packs: int
    format: int = FORMAT
    sha256: str = ""


# --- writing -----------------------------------------------------------------------------------


def write_archive(folder: Path, name: str, fill: Callable[[IO[bytes]], None]) -> Archived:
    """A file that `fill` writes, under a temporary name until it is durable. OutOfSpace leaves nothing."""
    digest, size = _write(folder, name, fill, lambda _: name)
    return Archived(name, digest, size)


def pack_object(target: Path, folder: Path, manifest_sha256: str) -> Archived:
    """Packs an object version from its folder into `target/packs`. Tampered where it is not as recorded."""
    manifest = read_manifest(folder, sha256=manifest_sha256)

    def fill(out: IO[bytes]) -> None:
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, MANIFEST_NAME, manifest.canonical())
            for record in manifest.files:
                _add_member(tar, folder, record)

    packs = target / PACKS
    digest, size = _write(packs, manifest_sha256, fill, lambda sha256: f"{manifest_sha256}.{sha256}.tar")
    return Archived(f"{manifest_sha256}.{digest}.tar", digest, size)


def packs_in(target: Path) -> dict[str, str]:
    """Names of the packs in a target by the digest of their manifest."""
    folder = target / PACKS
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {match[1]: name for name in names if (match := _PACK.fullmatch(name))}


def pack_digest(name: str) -> str:
    """The SHA-256 that a pack's name promises. Raises Tampered for the name of no pack."""
    match = _PACK.fullmatch(name)
    if match is None:
        raise Tampered("not the name of a pack", where=name[:200])
    return match[2]


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Some small files as one archive in memory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            _add(tar, name, data)
    return out.getvalue()


def add_tree(tar: tarfile.TarFile, folder: Path, name: str) -> None:
    """Every regular file below a folder, under `name/`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with naming(path), path.open("rb") as file:
                info = _info(f"{name}/{path.relative_to(folder).as_posix()}", os.fstat(file.fileno()).st_size)
                tar.addfile(info, file)


def add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """One file that lies in memory."""
    _add(tar, name, data)


def parse_facts(data: bytes, where: str) -> KeyFacts:
    """`backup.json` of a key archive. Raises Tampered."""
    return _document(data, KeyFacts, where)


def parse_catalogue(data: bytes, where: str) -> Catalogue:
    """`catalogue.json` of an objects archive. Raises Tampered."""
    return _document(data, Catalogue, where)


def index_bytes(index: Index) -> bytes:
    """The bytes of an index, with its digest in it."""
    plain = msgspec.to_builtins(index)
    del plain["sha256"]
    plain["sha256"] = hashlib.sha256(canonical_json(plain)).hexdigest()
    return canonical_json(plain)


# --- reading -----------------------------------------------------------------------------------


def read_back(folder: Path, name: str, sha256: str) -> int:
    """Reads a file of a backup, from the disk where the system lets us; returns its size. Raises Tampered."""
    digest, size = hashlib.sha256(), 0
    with _opened(folder, name) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    if not hmac.compare_digest(digest.hexdigest(), sha256):
        raise Tampered("not the archive that was written", where=str(folder / name), remedy=_REMEDY)
    return size


def read_bytes(folder: Path, name: str, sha256: str | None, limit: int = MAX_DOCUMENT) -> bytes:
    """A small archive's bytes. Raises Tampered where it has another digest."""
    with _opened(folder, name) as file:
        data = file.read(limit + 1)
    right = sha256 is None or hmac.compare_digest(hashlib.sha256(data).hexdigest(), sha256)
    if len(data) > limit or not right:
        raise Tampered("not the archive that was written", where=str(folder / name), remedy=_REMEDY)
    return data


def read_index(folder: Path, name: str) -> Index:
    """An index. Raises Tampered, naming it."""
    data = read_bytes(folder, name, None)
    try:
        index = msgspec.json.decode(data, type=Index)
        good = index.format == FORMAT and index_bytes(index) == data
    except (msgspec.MsgspecError, ValueError):
        good = False
    if not good or index.backup_id != name.removesuffix(".json"):
        raise Tampered(
            "not the index of a backup, or a damaged one", where=str(folder / name), remedy=_REMEDY
        )
    return index


def indexes_in(target: Path) -> list[str]:
    """Names of the indexes in a target."""
    with naming(target):
        return sorted(p.name for p in target.iterdir() if re.fullmatch(r"bk-[0-9a-z]{12}\.json", p.name))


def untar(data: bytes, where: str) -> dict[str, bytes]:
    """The regular files of an archive in memory. Raises Tampered for anything else in it."""
    files: dict[str, bytes] = {}
    with _reading(where), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is None or member.name in files:
                raise Tampered("not an archive of plain files", where=where, remedy=_REMEDY)
            files[member.name] = file.read()
    return files


def extract(folder: Path, name: str, sha256: str, place: Callable[[str], Path | None]) -> None:
    """Writes the files of an archive to where `place` says by name (None: leave out).

    Nothing in it is looked at before all of it was found to have its digest. Raises Tampered.
    """
    where = str(folder / name)
    read_back(folder, name, sha256)
    with _opened(folder, name) as raw, _reading(where), tarfile.open(fileobj=raw, mode="r|") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is None:
                raise Tampered("not an archive of plain files", where=where, remedy=_REMEDY)
            path = place(member.name)
            if path is not None:
                _write_plain(path, file)


def unpack_object(target: Path, ref: PackRef, folder: Path) -> Manifest:
    """Writes an object version out of its pack into an empty `folder`; returns its manifest.

    Raises Tampered where the pack is not the one that was written. The files are checked by whoever adopts.
    """
    expected: set[str] = {MANIFEST_NAME}

    def place(name: str) -> Path | None:
        if name not in expected:
            if name == MANIFEST_NAME or not (folder / MANIFEST_NAME).exists():
                raise Tampered("not a pack of one object", where=ref.pack, remedy=_REMEDY)
            manifest = read_manifest(folder, sha256=ref.manifest_sha256)
            expected.update(record.path for record in manifest.files)
            if name not in expected:
                raise Tampered("a file that its manifest does not name", where=ref.pack, remedy=_REMEDY)
        return folder / name

    make_folders(folder)
    extract(target / PACKS, ref.pack, pack_digest(ref.pack), place)
    data = read_bytes(folder, MANIFEST_NAME, ref.manifest_sha256, MAX_MANIFEST_BYTES)
    return parse_manifest(data, ref.pack)


def sweep(target: Path) -> None:
    """Removes what a backup that was cut off left half-written."""
    for folder in (target, target / PACKS, target / OBJECTS, target / KEYS):
        if folder.is_dir():
            for path in folder.glob(f"*{PART_SUFFIX}"):
                path.unlink(missing_ok=True)


# --- within ------------------------------------------------------------------------------------


def _write(
    folder: Path, name: str, fill: Callable[[IO[bytes]], None], final: Callable[[str], str]
) -> tuple[str, int]:
    make_folders(folder)
    part = folder / f"{name}{PART_SUFFIX}"
    with naming(folder / name):
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as raw:
                writer = HashingWriter(raw)
                fill(cast(IO[bytes], writer))
                os.fsync(raw.fileno())
            target = folder / final(writer.hexdigest())
            part.replace(target)
            sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    return writer.hexdigest(), writer.size


def _document(data: bytes, kind: type[Document], where: str) -> Document:
    try:
        document = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError):
        document = None
    if document is None or getattr(document, "format", None) != FORMAT:
        raise Tampered("not written by a backup of this version", where=where, remedy=_REMEDY)
    return document


def _info(name: str, size: int) -> tarfile.TarInfo:
    """A member without time, owner or mode of its own: the same object gives the same pack."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_info(name, len(data)), io.BytesIO(data))


def _add_member(tar: tarfile.TarFile, folder: Path, record: FileRecord) -> None:
    with naming(folder / record.path), os.fdopen(open_member(folder, record), "rb", buffering=0) as raw:
        reader = HashingReader(raw)
        tar.addfile(_info(record.path, record.sealed_size), cast(Any, reader))
    if not hmac.compare_digest(reader.hexdigest(), record.sha256):
        raise Tampered(
            "not the recorded content", where=str(folder / record.path), remedy="Restore it first."
        )


def _write_plain(path: Path, file: IO[bytes]) -> None:
    make_folders(path.parent)
    with naming(path):
        try:
            descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except FileExistsError:
            raise Conflict("an archive holds this file twice", where=str(path)) from None
        with os.fdopen(descriptor, "wb", buffering=0) as out:
            while block := file.read(_BLOCK):
                view = memoryview(block)
                while view:
                    view = view[out.write(view) :]
            os.fsync(out.fileno())


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[IO[bytes]]:
    with os.fdopen(open_regular(folder, name), "rb", buffering=0) as file, naming(folder / name):
        yield file


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, UnicodeDecodeError):
        raise Tampered("a damaged archive", where=where, remedy=_REMEDY) from None
