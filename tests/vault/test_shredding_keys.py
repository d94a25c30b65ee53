"""Keys that are gone: from the file, its free pages and its journal; and what is said in their place."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import pytest

from cloister.errors import CloisterError, Conflict, NotFound
from cloister.vault import ArgonParams, KeyStore, ObjectStore, ObjectWriter, Vault
from cloister.vault.keystore import WrappedKey
from cloister.vault.shredding import Condemned, shred

PASSPHRASE = b"correct horse"


def make(tmp_path: Path, argon: ArgonParams, count: int) -> tuple[Vault, ObjectStore, list[Condemned]]:
    vault = Vault.create(tmp_path / "keys", PASSPHRASE, argon=argon)
    store = ObjectStore(tmp_path / "objects")
    for number in range(count):
        object_id = f"ds-{number:012d}"
        key = vault.new_data_key(object_id)
        if number < 20:
            writer = ObjectWriter(tmp_path / "w", object_id=object_id, kind="dataset", key=key)
            with writer.create("rows.bin") as file:
                file.write(b"x" * 1000)
            store.adopt(tmp_path / "w", writer.finish(created_at="2026-01-01T00:00:00Z"))
    return vault, store, [Condemned("dataset", f"ds-{n:012d}", 1) for n in range(count)]


def wrapped(vault: Vault, items: list[Condemned]) -> list[bytes]:
    keys = [vault.store.data_key(item.object_id, item.version) for item in items]
    return [key.wrapped for key in keys if key is not None]


def lies_in(folder: Path, needles: list[bytes]) -> bool:
    return any(needle in path.read_bytes() for path in folder.iterdir() for needle in needles)


@pytest.mark.parametrize("locked", [False, True])
def test_no_byte_of_a_shredded_key_is_left(tmp_path: Path, argon: ArgonParams, locked: bool) -> None:
    vault, store, items = make(tmp_path, argon, 400)
    order = random.Random(3)
    order.shuffle(items)
    gone, kept = items[:150], items[150:]
    needles, plain = wrapped(vault, gone), [vault.data_key(item.object_id) for item in gone]
    staying = {item: vault.data_key(item.object_id) for item in kept}
    assert lies_in(tmp_path / "keys", needles)
    if locked:
        vault.lock()
    proof = shred(vault, store, gone, note="shredded on Monday by ada")
    assert proof.keys == 150
    assert proof.objects == sum(int(item.object_id[3:]) < 20 for item in gone)
    assert not lies_in(tmp_path / "keys", needles + plain)
    again = shred(vault, store, gone, note="a second time")
    assert (again.keys, again.objects) == (0, 0)
    if locked:
        vault.unlock(PASSPHRASE)
    assert {item: vault.data_key(item.object_id) for item in kept} == staying
    assert vault.check() > 0
    for item in gone:
        with pytest.raises(NotFound, match="was destroyed: shredded on Monday by ada"):
            vault.data_key(item.object_id)
        with pytest.raises(Conflict):
            vault.new_data_key(item.object_id)
        assert not store.folder(*item).exists()
    vault.close()
    assert not lies_in(tmp_path / "keys", needles)


def test_keys_that_moved_between_pages_leave_no_copy(tmp_path: Path) -> None:
    """Pages that split and merge leave old bytes in their gaps, which deleting a row does not reach."""
    store = KeyStore.create(tmp_path / "keystore.db", "v")
    order, there = random.Random(5), {}
    for _ in range(1500):
        if there and order.random() < 0.4:
            object_id = order.choice(sorted(there))
            store.destroy_data_keys([(object_id, 1)], "x")
            del there[object_id]
        else:
            object_id, key = f"o{order.getrandbits(60):x}", secrets.token_bytes(order.choice([40, 56, 400]))
            store.add_data_key(object_id, 1, WrappedKey(1, key))
            there[object_id] = key
    needles = [there[name] for name in sorted(there)[::2]]
    store.destroy_data_keys([(name, 1) for name in sorted(there)[::2]], "y")
    store.purge()
    assert not store.holds_bytes(needles)
    assert store.holds_bytes([there[name] for name in sorted(there)[1::2]])
    snapshot = store.snapshot()
    assert not any(needle in snapshot for needle in needles)
    assert len(store.data_keys()) == len(there) - len(needles)
    store.integrity()


def test_a_snapshot_is_a_key_store_that_opens(tmp_path: Path, argon: ArgonParams) -> None:
    vault, _, items = make(tmp_path, argon, 30)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "keystore.db").write_bytes(vault.store.snapshot())
    (copy / "keystore.db").chmod(0o600)
    restored = Vault.open(copy)
    restored.unlock(PASSPHRASE)
    assert restored.check() == vault.check()
    assert all(restored.data_key(item.object_id) == vault.data_key(item.object_id) for item in items)


def test_a_folder_that_cannot_be_removed_is_said(tmp_path: Path, argon: ArgonParams) -> None:
    vault, store, items = make(tmp_path, argon, 2)
    work = tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    (work / "deep" / "checkpoint").write_bytes(b"sealed")
    shred(vault, store, items[:1], note="n", folders=[work, tmp_path / "never-there"])
    assert not work.exists()
    store.remove = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(CloisterError, match="files of a shredded object are still there"):
        shred(vault, store, items[1:], note="n")


def test_a_key_that_never_was_cannot_be_made_after_a_shred(tmp_path: Path, argon: ArgonParams) -> None:
    vault, store, _ = make(tmp_path, argon, 1)
    proof = shred(vault, store, [Condemned("adapter", "ad-00000000000x", 1)], note="n")
    assert proof.keys == 0
    with pytest.raises(Conflict):
        vault.new_data_key("ad-00000000000x")
