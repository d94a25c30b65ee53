"""Shredding: the keys of object versions destroyed, their files removed, and the proof that they are gone.

Works on a locked vault too: a wrapped key is deleted unseen. Knows neither lineage nor who asked; what
is called again after a crash ends where it would have ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cloister.errors import CloisterError, NotFound
from cloister.vault.files import naming, sync_folder
from cloister.vault.keys import Vault
from cloister.vault.store import ObjectStore


class Condemned(NamedTuple):
    """An object version to be shredded. It need not be stored: a job that was cut off left only a key."""

    kind: str
    object_id: str
    version: int


class ShredProof(NamedTuple):
    """What was found afterwards: nothing. `keys` were destroyed by this call, `objects` removed."""

    keys: int
    objects: int


def shred(
    vault: Vault,
    store: ObjectStore,
    condemned: Sequence[Condemned],
    *,
    note: str,
    folders: Sequence[Path] = (),
) -> ShredProof:
    """Destroys the data keys of `condemned` for good, then removes their files and `folders`; proves it.

    Args:
        note: when and by whom; all that remains of a key. At most 500 characters.
        folders: what else holds files under these keys (work folders of jobs).

    Raises:
        CloisterError: something can still be opened, or lies there still; nothing is undone.
        OutOfSpace, Tampered: the key store or a folder cannot be written; call again.
    """
    keys = vault.store
    objects = [(item.object_id, item.version) for item in condemned]
    wrapped = [key.wrapped for pair in objects if (key := keys.data_key(*pair)) is not None]
    destroyed = keys.destroy_data_keys(objects, note[:500])
    keys.purge()
    removed = 0
    for item in condemned:
        if store.folder(*item).exists():
            store.remove(*item)
            removed += 1
    for folder in folders:
        with naming(folder):
            shutil.rmtree(folder, ignore_errors=not folder.exists())
            if folder.parent.is_dir():
                sync_folder(folder.parent)
    _prove(vault, store, condemned, wrapped, folders)
    return ShredProof(destroyed, removed)


def _prove(
    vault: Vault,
    store: ObjectStore,
    condemned: Sequence[Condemned],
    wrapped: Sequence[bytes],
    folders: Sequence[Path],
) -> None:
    """Tries to open everything, and looks for the wrapped keys in every byte of the key store."""
    if vault.store.holds_bytes(wrapped):
        raise CloisterError(
            "a destroyed key still lies in the key store's file",
            where=str(vault.store.path),
            remedy="Check the disk, then shred again.",
        )
    for item in condemned:
        if vault.store.data_key(item.object_id, item.version) is not None or _opens(vault, item):
            raise CloisterError("the key of a shredded object is still there", where=item.object_id)
        if store.folder(*item).exists():
            raise CloisterError("the files of a shredded object are still there", where=item.object_id)
    for folder in folders:
        if folder.exists():
            raise CloisterError("a folder of a shredded object is still there", where=str(folder))


def _opens(vault: Vault, item: Condemned) -> bool:
    if vault.locked:
        return False
    try:
        vault.data_key(item.object_id, item.version)
    except NotFound:
        return False
    return True
