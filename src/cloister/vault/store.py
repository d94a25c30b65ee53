"""The object store: `<root>/<kind>/<object_id>/v<version>/`, each version adopted whole or not at all.

The authority's side. Decrypts nothing and holds no key: what it knows of a file is its manifest's
size, header and SHA-256 of the sealed bytes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister.errors import Conflict, InvalidInput, NotFound, Tampered
from cloister.modes import close_to_others
from cloister.vault.files import PART_SUFFIX, make_folders, naming, sync_folder
from cloister.vault.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_word,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from cloister.vault.objects import check_member, open_member

_REMOVED = ".removed"
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")


class StoredVersion(NamedTuple):
    """Where one object version lies."""

    kind: str
    object_id: str
    version: int
    folder: Path


class ObjectStore:
    """All object versions below `root`. One writer at a time: the authority."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_folders(root)
        self._sweep()

    def folder(self, kind: str, object_id: str, version: int) -> Path:
        """Where that object version lies, or would."""
        if version < 1:
            raise InvalidInput("an object's version is 1 or more", where=object_id)
        return (
            self.root
            / check_word(kind, "a kind of object")
            / check_word(object_id, "an object id")
            / f"v{version}"
        )

    def adopt(self, work_folder: Path, manifest: Manifest) -> Manifest:
        """Takes a finished object over from a work folder: checked, then renamed into place at once.

        `manifest` is the one to keep: the worker's, with what the authority adds. Every file must have
        the size, header and SHA-256 that it says, and nothing else may lie there. Asked again after a
        crash, it goes on or finds the object in place.

        Raises Tampered (names the file), Conflict (another object has this place) or NotFound.
        """
        place = self.folder(manifest.kind, manifest.object_id, manifest.version)
        if place.exists():
            if not work_folder.exists() and read_manifest(place).sha256 == manifest.sha256:
                return manifest
            raise Conflict("this object version exists already", where=str(place))
        if not work_folder.is_dir() or work_folder.is_symlink():
            raise NotFound("no such work folder", where=str(work_folder))
        part = work_folder / (MANIFEST_NAME + PART_SUFFIX)
        if (
            part.is_file() and not part.is_symlink()
        ):  # of an adoption that was cut off as it wrote the manifest
            with naming(part):
                part.unlink()
        _check_only(work_folder, manifest)
        for record in manifest.files:
            check_member(work_folder, record)
        write_manifest(work_folder, manifest)
        _sync_tree(work_folder)
        make_folders(place.parent)
        try:
            work_folder.rename(place)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise InvalidInput(
                    "work folder and object store lie on two file systems",
                    where=str(work_folder),
                    remedy="Keep both on one.",
                ) from None
            with naming(work_folder):
                raise
        with naming(place):
            sync_folder(place.parent)
            sync_folder(work_folder.parent)
        return manifest

    def list(self) -> Iterator[StoredVersion]:
        """Every object version, in order of kind, id and version."""
        for kind in _folders(self.root):
            for object_folder in _folders(kind):
                found = ((_VERSION.fullmatch(folder.name), folder) for folder in _folders(object_folder))
                versions = sorted((int(match[1]), folder) for match, folder in found if match)
                for version, folder in versions:
                    yield StoredVersion(kind.name, object_folder.name, version, folder)

    def manifest(self, kind: str, object_id: str, version: int, *, sha256: str | None = None) -> Manifest:
        """The manifest of an object version, which must be of that very version."""
        folder = self.folder(kind, object_id, version)
        if not folder.is_dir():
            raise NotFound(f"no {kind} of this id and version {version}", where=object_id)
        try:
            manifest = read_manifest(folder, sha256=sha256)
        except NotFound:
            raise Tampered("the manifest is missing", where=str(folder / MANIFEST_NAME)) from None
        if (manifest.kind, manifest.object_id, manifest.version) != (kind, object_id, version):
            raise Tampered("the manifest of another object", where=str(folder / MANIFEST_NAME))
        return manifest

    def remove(self, kind: str, object_id: str, version: int) -> None:
        """Takes an object version away at once, then deletes its files. Its key is destroyed elsewhere."""
        folder = self.folder(kind, object_id, version)
        removed = self.root / _REMOVED
        make_folders(removed)
        with naming(folder):
            folder.rename(removed / f"{object_id}-v{version}-{secrets.token_hex(8)}")
            sync_folder(folder.parent)
        for above in (folder.parent, folder.parent.parent):
            if not any(above.iterdir()):
                above.rmdir()
        self._sweep()

    def strays_in(self, manifest: Manifest) -> Iterator[Tampered]:
        """What lies in an object version's folder beside its own files."""
        return _strays(self.folder(manifest.kind, manifest.object_id, manifest.version), manifest)

    def check(
        self,
        kind: str,
        object_id: str,
        version: int,
        *,
        manifest_sha256: str | None = None,
        signer: Ed25519PublicKey | None = None,
        full: bool = True,
    ) -> Manifest:
        """Checks manifest, signature and every file of an object version; returns the manifest.

        Without `full` only sizes and headers of files. Raises NotFound or Tampered (names the file).
        """
        manifest = self.manifest(kind, object_id, version, sha256=manifest_sha256)
        folder = self.folder(kind, object_id, version)
        if signer is not None:
            verify_manifest(manifest, signer, where=str(folder / MANIFEST_NAME))
        _check_only(folder, manifest)
        for record in manifest.files:
            if full:
                check_member(folder, record)
            else:
                os.close(open_member(folder, record))
        return manifest

    def _sweep(self) -> None:
        """Deletes what `remove` took away, also before a crash."""
        removed = self.root / _REMOVED
        if removed.is_dir():
            shutil.rmtree(removed)


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.is_dir() and not path.is_symlink()
    )


def _check_only(folder: Path, manifest: Manifest) -> None:
    """Raises Tampered where anything but the manifest's own regular files lies in `folder`."""
    for stray in _strays(folder, manifest):
        raise stray


def _strays(folder: Path, manifest: Manifest) -> Iterator[Tampered]:
    expected = {record.path for record in manifest.files} | {MANIFEST_NAME}
    with naming(folder):
        for at, folders, names in os.walk(folder):
            for name in (*folders, *names):
                path = Path(at, name)
                mode = path.lstat()
                if stat.S_ISDIR(mode.st_mode):
                    continue
                if not stat.S_ISREG(mode.st_mode) or mode.st_nlink != 1:
                    yield Tampered("neither link nor device belongs in an object", where=str(path))
                elif path.relative_to(folder).as_posix() not in expected:
                    yield Tampered("a file that its manifest does not name", where=str(path))


def _sync_tree(folder: Path) -> None:
    """Closes the folder to others, drops empty folders, and makes all names durable."""
    with naming(folder):
        for at, folders, names in os.walk(folder, topdown=False):
            here = Path(at)
            for name in names:
                close_to_others(here / name)
            for name in folders:
                if not any((here / name).iterdir()):
                    (here / name).rmdir()
            close_to_others(here)
            sync_folder(here)
