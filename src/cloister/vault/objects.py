"""One object version in a folder: writing its files and manifest, reading them back.

The worker's side of the object store. Knows the key of this one object and of no other.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister.errors import Conflict, InvalidInput, NotFound, Tampered
from cloister.vault.files import make_folders, naming, open_regular
from cloister.vault.format import HEADER, check_key, object_context
from cloister.vault.manifest import (
    MANIFEST_NAME,
    FileRecord,
    InputRef,
    Manifest,
    check_path,
    check_word,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from cloister.vault.reader import PlainReader, SealedReader
from cloister.vault.writer import FileSeal, PlainWriter, SealedWriter

_HASH_BLOCK = 1 << 20


class ObjectWriter:
    """Writes an object version into `folder`, which may hold files of an earlier attempt.

    Args:
        folder: created if missing.
        key: the object version's data key; None writes files in the open.

    Several files may be open at once, by several threads. Nothing is an object until `finish`.
    """

    def __init__(
        self, folder: Path, *, object_id: str, kind: str, version: int = 1, key: bytes | None
    ) -> None:
        self.folder = folder
        self.object_id = check_word(object_id, "an object id")
        self.kind = check_word(kind, "a kind of object")
        self.version = version
        self._key = None if key is None else check_key(key)
        self._records: dict[str, FileRecord] = {}
        self._writing: set[str] = set()
        self._finished = False
        make_folders(folder)

    @property
    def records(self) -> list[FileRecord]:
        """The files closed so far, by path."""
        return [self._records[path] for path in sorted(self._records)]

    def create(self, relpath: str) -> SealedWriter | PlainWriter:
        """Begins a file. It counts as the object's once closed. Conflict where the path is taken."""
        check_path(relpath)
        if self._finished:
            raise Conflict("the object is finished", where=str(self.folder))
        if relpath in self._records or relpath in self._writing:
            raise Conflict("this file has been written already", where=relpath)
        path = self.folder / relpath
        make_folders(path.parent)
        if self._key is None:
            writer: SealedWriter | PlainWriter = _PlainMember(self, path, relpath)
        else:
            writer = _SealedMember(self, path, relpath, self._key, self._context(relpath))
        self._writing.add(relpath)
        return writer

    def open(self, relpath: str) -> SealedReader | PlainReader:
        """Reads a file in the folder back, also one of an earlier attempt."""
        path = self.folder / check_path(relpath)
        descriptor = open_regular(self.folder, relpath)
        if self._key is None:
            return PlainReader(path, descriptor=descriptor)
        return SealedReader(path, self._key, self._context(relpath), descriptor=descriptor)

    def remove(self, relpath: str) -> None:
        """Removes a file, also one of an earlier attempt, and folders that it leaves empty."""
        path = self.folder / check_path(relpath)
        with naming(path):
            path.unlink(missing_ok=True)
        self._records.pop(relpath, None)
        for folder in path.parents:
            if folder == self.folder:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def finish(
        self,
        *,
        created_at: str,
        inputs: Sequence[InputRef] = (),
        config_digest: str | None = None,
        counts: Mapping[str, int] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Writes the manifest, last and atomically: from now on there is an object.

        What lies in the folder beside the object's files (part files and files of an earlier attempt
        that was cut off) is removed first. Conflict while a file is open.
        """
        if self._finished or self._writing:
            raise Conflict("the object is finished, or a file of it is still open", where=str(self.folder))
        try:
            manifest = Manifest(
                object_id=self.object_id,
                kind=self.kind,
                version=self.version,
                created_at=created_at,
                sealed=self._key is not None,
                files=tuple(self.records),
                inputs=tuple(inputs),
                config_digest=config_digest,
                counts=dict(counts or {}),
                details=dict(details or {}),
            )
        except ValueError as error:
            raise InvalidInput(f"no manifest can say this: {error}", where=self.object_id) from None
        self._sweep()
        write_manifest(self.folder, manifest)
        self._finished = True
        return manifest

    def _context(self, relpath: str) -> bytes:
        return object_context(self.object_id, self.kind, self.version, relpath)

    def _sweep(self) -> None:
        for at, folders, names in os.walk(self.folder, topdown=False):
            for name in names:
                path = Path(at, name)
                if path.relative_to(self.folder).as_posix() not in self._records:
                    path.unlink()
            for name in folders:
                path = Path(at, name)
                if path.is_symlink():
                    path.unlink()
                elif not any(path.iterdir()):
                    path.rmdir()

    def _member_closed(self, relpath: str, seal: FileSeal) -> None:
        self._records[relpath] = seal
        self._writing.discard(relpath)

    def _member_aborted(self, relpath: str) -> None:
        self._writing.discard(relpath)


class _SealedMember(SealedWriter):
    def __init__(self, owner: ObjectWriter, path: Path, relpath: str, key: bytes, context: bytes) -> None:
        self._owner, self._relpath = owner, relpath
        super().__init__(path, key, context, name=relpath)

    def _closed(self, seal: FileSeal) -> None:
        self._owner._member_closed(self._relpath, seal)

    def abort(self) -> None:
        super().abort()
        self._owner._member_aborted(self._relpath)


class _PlainMember(PlainWriter):
    def __init__(self, owner: ObjectWriter, path: Path, relpath: str) -> None:
        self._owner, self._relpath = owner, relpath
        super().__init__(path, name=relpath)

    def _closed(self, seal: FileSeal) -> None:
        self._owner._member_closed(self._relpath, seal)

    def abort(self) -> None:
        super().abort()
        self._owner._member_aborted(self._relpath)


class ObjectReader:
    """Reads an object version from its folder.

    Args:
        key: its data key; None for an object in the open.
        manifest_sha256: the manifest's recorded digest. Without it, or `signer`, the manifest's own
            words are believed, and only sealed content is certain.
        object_id: the id that it must have.
        signer: the key that must have signed the manifest.

    May be shared by threads. Raises NotFound or Tampered.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: bytes | None,
        manifest_sha256: str | None = None,
        object_id: str | None = None,
        signer: Ed25519PublicKey | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder, sha256=manifest_sha256)
        where = str(folder / MANIFEST_NAME)
        if object_id is not None and self.manifest.object_id != object_id:
            raise Tampered(f"the manifest of another object than {object_id}", where=where)
        if signer is not None:
            verify_manifest(self.manifest, signer, where=where)
        if self.manifest.sealed != (key is not None):
            raise InvalidInput("a sealed object needs its key, and one in the open has none", where=where)
        self._key = None if key is None else check_key(key)
        self._by_path = {record.path: record for record in self.manifest.files}

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of its files."""
        return tuple(self._by_path)

    def __contains__(self, relpath: str) -> bool:
        return relpath in self._by_path

    def open(self, relpath: str) -> SealedReader | PlainReader:
        """Opens a file, whose size and header are checked against the manifest."""
        record = self._by_path.get(relpath)
        if record is None:
            raise NotFound(f"the object has no file {relpath!r}", where=self.manifest.object_id)
        descriptor = open_member(self.folder, record)
        path = self.folder / relpath
        if self._key is None:
            return PlainReader(path, descriptor=descriptor)
        manifest = self.manifest
        context = object_context(manifest.object_id, manifest.kind, manifest.version, relpath)
        return SealedReader(path, self._key, context, descriptor=descriptor)

    def read(self, relpath: str, limit: int = 64 << 20) -> bytes:
        """A small file's whole content. InvalidInput where it has more than `limit` bytes."""
        with self.open(relpath) as reader:
            if reader.size > limit:
                raise InvalidInput(f"larger than {limit} bytes", where=str(self.folder / relpath))
            return reader.read(0, reader.size)

    def check(self, full: bool = True) -> None:
        """Opens every file; with `full` also compares each one's SHA-256. Raises at the first bad one."""
        for record in self.manifest.files:
            self.open(record.path).close()
            if full:
                check_member(self.folder, record)

    def close(self) -> None:
        """Drops the key."""
        self._key = b"" if self._key is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_member(folder: Path, record: FileRecord) -> int:
    """A descriptor of an object's file after its size and header were found to be the recorded ones."""
    path = folder / record.path
    try:
        descriptor = open_regular(folder, record.path)
    except NotFound:
        raise Tampered("a file of the object is missing", where=str(path)) from None
    try:
        with naming(path):
            if os.fstat(descriptor).st_size != record.sealed_size:
                raise Tampered("not of the recorded size", where=str(path))
            if record.header is not None:
                header = os.pread(descriptor, HEADER, 0)
                if not hmac.compare_digest(header, bytes.fromhex(record.header)):
                    raise Tampered("not the recorded header", where=str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_member(
    folder: Path, record: FileRecord, *, progress: Callable[[int], None] = lambda count: None
) -> None:
    """Raises Tampered unless a file's size, header and SHA-256 are the recorded ones.

    `progress` is told how many bytes each block had.
    """
    path = folder / record.path
    descriptor = open_member(folder, record)
    digest = hashlib.sha256()
    try:
        with naming(path):
            block = memoryview(bytearray(_HASH_BLOCK))
            while count := os.readv(descriptor, [block]):
                digest.update(block[:count])
                progress(count)
    finally:
        os.close(descriptor)
    if not hmac.compare_digest(digest.hexdigest(), record.sha256):
        raise Tampered("not the recorded content", where=str(path), remedy="Restore it from a backup.")
