"""The key store: what opens it, what does not, and what is gone for good."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloister.errors import (
    CloisterError,
    Conflict,
    InvalidInput,
    Locked,
    NotFound,
    Tampered,
    Unauthenticated,
)
from cloister.vault import ArgonParams, PassphraseSlot, Vault
from cloister.vault.memory import SecretBytes
from cloister.vault.slots import StoredSlot

PASSPHRASE = b"correct horse battery staple"
OBJECT = "ds-000000000000"


@pytest.fixture
def vault(tmp_path: Path, argon: ArgonParams) -> Vault:
    return Vault.create(tmp_path / "keys", PASSPHRASE, argon=argon)


def database(vault: Vault) -> Path:
    return Path(vault._where)


def reopened(vault: Vault, passphrase: bytes = PASSPHRASE) -> Vault:
    again = Vault.open(database(vault).parent)
    again.unlock(passphrase)
    return again


def test_keys_come_back_after_unlocking(vault: Vault) -> None:
    key = vault.new_data_key(OBJECT)
    second = vault.new_data_key(OBJECT, 2)
    public = vault.signing_key("ledger").public_key()
    pepper = vault.secret("pepper")
    assert len({key, second, pepper}) == 3
    assert {len(key), len(second), len(pepper)} == {32}
    again = Vault.open(database(vault).parent)
    assert again.locked
    again.unlock(PASSPHRASE)
    assert (again.data_key(OBJECT), again.data_key(OBJECT, 2)) == (key, second)
    assert again.signing_key("ledger").public_key() == public
    assert again.secret("pepper") == pepper
    assert vault.secret("ledger") != vault.signing_key("ledger").private_bytes_raw()
    assert again.check() == 6
    assert database(vault).stat().st_mode & 0o777 == 0o600


def test_locked_it_gives_no_key(vault: Vault) -> None:
    vault.new_data_key(OBJECT)
    vault.signing_key("ledger")
    vault.lock()
    vault.lock()
    assert vault.locked
    for use in (
        lambda: vault.data_key(OBJECT),
        lambda: vault.new_data_key("ds-000000000001"),
        lambda: vault.signing_key("ledger"),
        lambda: vault.secret("pepper"),
        lambda: vault.add_slot(PassphraseSlot(b"x")),
        lambda: vault.check(),
    ):
        with pytest.raises(Locked):
            use()


def test_a_wrong_passphrase_is_unauthenticated(vault: Vault) -> None:
    vault.lock()
    for wrong in (b"wrong", PASSPHRASE + b" ", PASSPHRASE[:-1]):
        with pytest.raises(Unauthenticated) as caught:
            vault.unlock(wrong)
        assert wrong.decode() not in str(caught.value).replace("the passphrase is wrong", "")
        assert vault.locked
    for outside in (b"", bytes(1025)):
        with pytest.raises(InvalidInput):
            vault.unlock(outside)
    vault.unlock(PASSPHRASE)


def test_there_is_one_vault_in_a_place(vault: Vault, argon: ArgonParams, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        Vault.create(database(vault).parent, b"another", argon=argon)
    with pytest.raises(NotFound):
        Vault.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    os.chmod(database(vault), 0o644)
    with pytest.raises(InvalidInput, match="others may read"):
        Vault.open(database(vault).parent)


def test_a_creation_that_was_cut_off_leaves_no_vault(tmp_path: Path, argon: ArgonParams) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "keystore.db.new").write_bytes(b"torn")
    with pytest.raises(NotFound):
        Vault.open(keys)
    Vault.create(keys, PASSPHRASE, argon=argon).close()
    assert os.listdir(keys) == ["keystore.db"]


def test_a_data_key_is_made_once(vault: Vault) -> None:
    key = vault.new_data_key(OBJECT)
    with pytest.raises(Conflict):
        vault.new_data_key(OBJECT)
    assert vault.data_key(OBJECT) == key
    for bad in (lambda: vault.data_key(OBJECT, 2), lambda: vault.data_key("ds-000000000009")):
        with pytest.raises(NotFound, match="does not exist"):
            bad()
    for bad in (lambda: vault.new_data_key("../x"), lambda: vault.new_data_key(OBJECT, 0)):
        with pytest.raises(InvalidInput):
            bad()


def test_a_destroyed_key_is_in_no_file_and_never_comes_back(vault: Vault) -> None:
    objects = [f"ds-{number:012d}" for number in range(40)]
    for object_id in objects:
        vault.new_data_key(object_id)
    wrapped = {object_id: vault._store.data_key(object_id, 1).wrapped for object_id in objects}  # type: ignore[union-attr]

    def found(object_id: str) -> list[str]:
        return [
            path.name
            for path in database(vault).parent.iterdir()
            if any(wrapped[object_id][i : i + 12] in path.read_bytes() for i in range(0, 36, 12))
        ]

    assert "keystore.db" in found(objects[0])
    vault.lock()  # destroying needs no key
    for object_id in objects[::2]:
        assert vault.destroy_data_key(object_id, note="2026-11-21 by alice")
        assert found(object_id) == []
    assert found(objects[1])
    assert not vault.destroy_data_key(objects[0])
    with pytest.raises(NotFound):
        vault.destroy_data_key("ds-100000000000")
    vault.unlock(PASSPHRASE)
    assert vault.data_key(objects[1])
    with pytest.raises(NotFound, match="was destroyed: 2026-11-21 by alice"):
        vault.data_key(objects[0])
    with pytest.raises(Conflict):
        vault.new_data_key(objects[0])
    vault.check()


def test_a_destruction_that_was_cut_off_is_completed_at_the_next_start(vault: Vault) -> None:
    vault.new_data_key(OBJECT)
    wrapped = vault._store.data_key(OBJECT, 1).wrapped  # type: ignore[union-attr]
    path = database(vault)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA journal_mode = PERSIST")
        connection.execute("DELETE FROM data_keys")
    connection.close()
    journal = path.with_name("keystore.db-journal")
    assert wrapped in journal.read_bytes()
    Vault.open(path.parent)
    assert not any(wrapped[:12] in file.read_bytes() for file in path.parent.iterdir())


def test_every_changed_byte_of_a_slot_is_tampered_and_not_a_wrong_passphrase(vault: Vault) -> None:
    path = database(vault)
    stored = vault._store.slots()[0]
    vault.close()
    good = path.read_bytes()
    changed = 0
    for field in (stored.document, stored.digest, b"passphrase{"):
        start = good.index(field)
        for at in range(start, start + len(field)):
            bad = bytearray(good)
            bad[at] ^= 1
            path.write_bytes(bad)
            with pytest.raises(Tampered) as caught:
                Vault.open(path.parent).unlock(PASSPHRASE)
            assert caught.value.where == str(path)
            changed += 1
    assert changed > 200
    path.write_bytes(good)
    Vault.open(path.parent).unlock(PASSPHRASE)


def test_a_changed_byte_anywhere_never_gives_another_key(vault: Vault) -> None:
    path = database(vault)
    expected = [vault.new_data_key(OBJECT), vault.secret("pepper")]
    vault.close()
    good = path.read_bytes()
    order = random.Random(8)
    failures = 0
    for _ in range(150):
        bad = bytearray(good)
        bad[order.randrange(len(bad))] ^= 1 << order.randrange(8)
        path.write_bytes(bad)
        try:
            again = Vault.open(path.parent)
            again.unlock(PASSPHRASE)
            assert again.data_key(OBJECT) == expected[0]
            if again._store.named_key("pepper", "secret"):
                assert again.secret("pepper") == expected[1]
            again.close()
        except CloisterError as error:
            assert not isinstance(error, Unauthenticated)
            failures += 1
    assert failures
    for torn in (b"", good[:100], good[: len(good) // 2], b"x" * len(good)):
        path.write_bytes(torn)
        with pytest.raises(Tampered) as caught:
            Vault.open(path.parent).unlock(PASSPHRASE)
        assert caught.value.where == str(path)


def hostile(vault: Vault, **argon: int) -> None:
    """Puts a slot into the store whose digest fits but whose document asks for this derivation."""
    path = database(vault)
    stored = vault._store.slots()[0]
    vault.close()
    document = json.loads(stored.document)
    document["argon"].update(argon)
    packed = json.dumps(document, separators=(",", ":")).encode()
    slot = StoredSlot.of(stored.slot_id, stored.kind, packed, vault.vault_id)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE slots SET document = ?, digest = ?", (slot.document, slot.digest))
    connection.close()


@pytest.mark.parametrize(
    "asked",
    [
        {"memory_kib": 1 << 30},
        {"memory_kib": 1 << 70},
        {"memory_kib": -1},
        {"memory_kib": 8},
        {"iterations": 1 << 31},
        {"iterations": 0},
        {"lanes": 1 << 20},
        {"lanes": 0},
        {"memory_kib": 4 << 20, "iterations": 64},
        {"iterations": 1.5},
    ],
    ids=str,
)
def test_a_hostile_slot_cannot_ask_for_a_terabyte(vault: Vault, asked: dict[str, int]) -> None:
    hostile(vault, **asked)
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # the high-water mark begins anew: earlier tests may have set it high
    before = most_memory()
    with pytest.raises(Tampered) as caught:
        Vault.open(database(vault).parent).unlock(PASSPHRASE)
    assert caught.value.where == str(database(vault))
    assert most_memory() - before < 16 * 1024


def most_memory() -> int:
    """KiB that this process had in memory at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_parameters_out_of_bounds_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        Vault.create(tmp_path / "keys", PASSPHRASE, argon=ArgonParams(memory_kib=64))
    assert not (tmp_path / "keys/keystore.db").exists()
    assert ArgonParams().within_bounds()


def test_keys_that_changed_places_do_not_open(vault: Vault) -> None:
    other = "ds-000000000001"
    vault.new_data_key(OBJECT)
    vault.new_data_key(other)
    vault.secret("one")
    vault.secret("two")
    with sqlite3.connect(database(vault)) as connection:
        for table, column, one, two in (
            ("data_keys", "object_id", OBJECT, other),
            ("named_keys", "name", "one", "two"),
        ):
            swap = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
            for new, old in (("x", one), (one, two), (two, "x")):
                connection.execute(swap, (new, old))
    connection.close()
    for use in (lambda: vault.data_key(OBJECT), lambda: vault.secret("one"), vault.check):
        with pytest.raises(Tampered):
            use()


def test_slots_are_added_and_removed_but_never_the_last(vault: Vault, argon: ArgonParams) -> None:
    key = vault.new_data_key(OBJECT)
    assert vault.add_slot(PassphraseSlot(b"second", argon)) == 2
    assert vault.slots() == [(1, "passphrase"), (2, "passphrase")]
    for passphrase in (PASSPHRASE, b"second"):
        assert reopened(vault, passphrase).data_key(OBJECT) == key
    gone = vault._store.slots()[0].document
    with pytest.raises(NotFound):
        vault.remove_slot(9)
    vault.remove_slot(1)
    assert not [p for p in database(vault).parent.iterdir() if gone[-200:] in p.read_bytes()]
    with pytest.raises(Unauthenticated):
        reopened(vault)
    with pytest.raises(Conflict, match="last"):
        vault.remove_slot(2)
    assert reopened(vault, b"second").data_key(OBJECT) == key


def test_one_damaged_slot_leaves_the_other_usable_and_irremovable(vault: Vault, argon: ArgonParams) -> None:
    vault.add_slot(PassphraseSlot(b"second", argon))
    with sqlite3.connect(database(vault)) as connection:
        connection.execute("UPDATE slots SET digest = x'00' WHERE slot_id = 1")
    connection.close()
    reopened(vault, b"second")
    with pytest.raises(Tampered):
        reopened(vault)
    with pytest.raises(Conflict):
        vault.remove_slot(2)
    with pytest.raises(Tampered):
        vault.check()


def test_locking_wipes_what_was_held() -> None:
    class Page(bytearray):
        def close(self) -> None:
            pass

    secret = SecretBytes(b"root key")
    assert secret.reveal() == b"root key"
    assert "root" not in repr(secret)
    page = Page(secret._page)  # type: ignore[arg-type]
    secret._page.close()  # type: ignore[union-attr]
    secret._page = page  # type: ignore[assignment]
    secret.wipe()
    assert page == bytes(8)
    with pytest.raises(Locked):
        secret.reveal()


def test_threads_and_processes_share_the_store(vault: Vault) -> None:
    failures: list[Exception] = []
    seen: list[bytes] = []

    def use(turn: int) -> None:
        try:
            for number in range(5):
                object_id = f"ds-{turn:06d}{number:06d}"
                assert vault.new_data_key(object_id) == vault.data_key(object_id)
                seen.append(vault.secret("shared"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    other = (
        "import sys; from pathlib import Path; from cloister.vault import Vault\n"
        "vault = Vault.open(Path(sys.argv[1])); vault.unlock(sys.stdin.buffer.read())\n"
        "for number in range(5): vault.new_data_key(f'ad-{number:012d}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", other, database(vault).parent],
        input=PASSPHRASE,
        capture_output=True,
        timeout=120,
    )
    for thread in threads:
        thread.join()
    assert not failures
    assert done.returncode == 0, done.stderr
    assert len(set(seen)) == 1
    assert vault.check() == 30 + 5 + 1 + 1


FULL_DISK = """
import sys
from pathlib import Path
from cloister.errors import OutOfSpace
from cloister.vault import ArgonParams, Vault
vault = Vault.create(Path(sys.argv[1]) / "keys", b"x", argon=ArgonParams(8192, 1, 1))
made = []
try:
    for number in range(100000):
        made.append((f"ds-{number:012d}", vault.new_data_key(f"ds-{number:012d}")))
except OutOfSpace:
    pass
assert len(made) > 50
assert all(vault.data_key(object_id) == key for object_id, key in made)
print("refused", vault.check() == len(made) + 1)
"""


def test_a_full_disk_refuses_a_key_and_harms_none(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=192k none {tmp_path} && exec {sys.executable} -c "$1" {tmp_path}'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespace of our own here")
    assert done.stdout == "refused True\n", done.stderr
