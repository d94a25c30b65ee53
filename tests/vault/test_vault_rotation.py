"""Fresh keys: the KEK's rotation, cut off at any moment, and the root key's."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloister.errors import CloisterError, Conflict, Locked, NotFound, Unauthenticated
from cloister.vault import ArgonParams, PassphraseSlot, Vault
from cloister.vault.credential import CredentialSlot
from cloister.vault.shares import SharesSlot

PASSPHRASE = b"correct horse battery staple"


def ids(count: int) -> list[str]:
    return [f"ds-{number:012d}" for number in range(count)]


@pytest.fixture
def vault(tmp_path: Path, argon: ArgonParams) -> Vault:
    return Vault.create(tmp_path / "keys", PASSPHRASE, argon=argon)


def reopened(vault: Vault, secret: bytes = PASSPHRASE) -> Vault:
    again = Vault.open(Path(vault._where).parent)
    again.unlock(secret)
    return again


def traces(vault: Vault, wrapped: bytes) -> list[str]:
    """Files beside the key store in which a piece of a wrapped key is found."""
    pieces = [wrapped[i : i + 12] for i in range(0, len(wrapped) - 12, 12)]
    return [
        path.name
        for path in Path(vault._where).parent.iterdir()
        if any(piece in path.read_bytes() for piece in pieces)
    ]


def test_rotating_the_kek_wraps_every_key_anew_and_destroys_the_old_one(vault: Vault) -> None:
    keys = {object_id: vault.new_data_key(object_id) for object_id in ids(450)}
    pepper, public = vault.secret("pepper"), vault.signing_key("ledger").public_key()
    old_kek = vault._store.keks()[1]
    old_wrapped = [key.wrapped for _, _, key in vault._store.data_keys()]
    done = vault.rotate_kek()
    assert (done.version, done.rewrapped, done.destroyed, done.resumed) == (2, 452, (1,), False)
    assert not vault.rotation_pending
    assert list(vault._store.keks()) == [2]
    assert traces(vault, old_kek) == []
    assert not any(traces(vault, wrapped) for wrapped in old_wrapped[:20])
    for view in (vault, reopened(vault)):
        assert {object_id: view.data_key(object_id) for object_id in keys} == keys
        assert view.secret("pepper") == pepper
        assert view.signing_key("ledger").public_key() == public
        view.check()
    assert vault.rotate_kek().version == 3
    vault.lock()
    with pytest.raises(Locked):
        vault.rotate_kek()


def test_another_process_that_is_open_follows_a_rotation(vault: Vault) -> None:
    other = reopened(vault)
    first = vault.new_data_key("ds-000000000001")
    vault.rotate_kek()
    second = other.new_data_key("ds-000000000002")  # under the new KEK, though opened under the old
    assert other.data_key("ds-000000000001") == first
    vault.rotate_kek()
    assert vault.data_key("ds-000000000002") == second
    assert other.secret("pepper") == vault.secret("pepper")
    vault.check()
    other.check()


def test_an_old_kek_is_kept_while_a_key_needs_it(vault: Vault) -> None:
    vault.new_data_key("ds-000000000001")
    with pytest.raises(Conflict, match="still needed"):
        vault._store.drop_keks_below(2)
    assert list(vault._store.keks()) == [1]


ROTATE = """
import sys
from pathlib import Path
from cloister.vault import Vault
import cloister.vault.keys as keys
keys._BATCH = 20
vault = Vault.open(Path(sys.argv[1]))
vault.unlock(sys.stdin.buffer.readline().strip())
print("ready", flush=True)
while True:
    vault.rotate_kek()
"""


def killed_rotations(vault: Vault, count: int, seed: int) -> int:
    """Kills a process that rotates, so often at random moments and then until a rotation was left half done at least
    once; returns how often that was."""
    keys = {object_id: vault.new_data_key(object_id) for object_id in ids(120)}
    pepper = vault.secret("pepper")
    folder = Path(vault._where).parent
    vault.close()
    order, halves = random.Random(seed), 0
    for turn in itertools.count():
        if turn >= count and halves:
            return halves
        assert turn < 10 * count, "no kill came in the middle of a rotation"
        with subprocess.Popen(
            [sys.executable, "-c", ROTATE, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(PASSPHRASE + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"ready\n"
            time.sleep(order.random() * 0.15)
            os.kill(process.pid, signal.SIGKILL)
        again = Vault.open(folder)
        again.unlock(PASSPHRASE)
        halves += again.rotation_pending
        assert {object_id: again.data_key(object_id) for object_id in keys} == keys
        assert again.secret("pepper") == pepper
        if order.random() < 0.5:  # otherwise the next process completes it
            pending = again.rotation_pending
            assert again.rotate_kek().resumed == pending
            assert len(again._store.keks()) == 1
        again.check()
        again.close()
    raise AssertionError


def test_a_rotation_killed_anywhere_loses_no_key(vault: Vault) -> None:
    assert killed_rotations(vault, 6, seed=3) > 0


@pytest.mark.soak
def test_soak_a_rotation_killed_anywhere_loses_no_key(vault: Vault) -> None:
    print(f"soak: kills=100 left_half_done={killed_rotations(vault, 100, seed=4)}")


def test_rotating_the_root_key_ends_every_other_slot(vault: Vault, argon: ArgonParams) -> None:
    credential = CredentialSlot(CredentialSlot.new_key())
    vault.add_slot(credential)
    vault.add_slot(PassphraseSlot(b"second", argon))
    key = vault.new_data_key("ds-000000000001")
    slots, keks = vault.stored_slots(), vault._store.keks()
    with pytest.raises(Unauthenticated):
        vault.rotate_root(PassphraseSlot(b"wrong", argon))
    assert vault.stored_slots() == slots
    other = reopened(vault)
    kept, ended = vault.rotate_root(PassphraseSlot(b"second", argon))
    assert (kept, ended) == (3, (1, 2))
    vault.rotate_kek()
    assert vault.slots() == [(3, "passphrase")]
    assert reopened(vault, b"second").data_key("ds-000000000001") == key
    for slot in (PassphraseSlot(PASSPHRASE), credential):
        with pytest.raises(Unauthenticated):
            Vault.open(Path(vault._where).parent).unlock_with(slot)
    for wrapped in (*keks.values(), bytes.fromhex(json_field(slots[1].document, "wrapped"))):
        assert traces(vault, wrapped) == []
    with pytest.raises(CloisterError):  # opened by the root key of before
        other.new_data_key("ds-000000000002")
    with pytest.raises(NotFound):
        vault.data_key("ds-000000000002")


def test_a_root_key_is_taken_over_by_shares_and_by_a_credential(vault: Vault) -> None:
    shares, key = SharesSlot.split(2, 3), CredentialSlot.new_key()
    vault.add_slot(shares)
    vault.add_slot(CredentialSlot(key, "of-this-host"))
    details = [slot.document for slot in vault.stored_slots()]
    pair = SharesSlot.joined(shares.mnemonics[1:])
    assert vault.rotate_root(pair) == (2, (1, 3))
    again = Vault.open(Path(vault._where).parent)
    assert again.unlock_with(SharesSlot.joined(shares.mnemonics[:2])) == 2
    assert SharesSlot.summary(vault.stored_slots()[0].document, "", 2) == SharesSlot.summary(
        details[1], "", 2
    )
    number = vault.add_slot(CredentialSlot(key, "of-this-host"))
    vault.rotate_root(CredentialSlot(key))
    assert vault.stored_slots()[0].slot_id == number
    assert "of-this-host" in CredentialSlot.summary(vault.stored_slots()[0].document, "", number)


def json_field(document: bytes, name: str) -> str:
    import json

    return str(json.loads(document)[name])
