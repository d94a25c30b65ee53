"""Bodies: sealed to a key that the keeper has not, committed to with a salt, shredded one by one or by day."""

from __future__ import annotations

import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import CloisterError, Conflict, InvalidInput, NotFound, Tampered
from cloister.vault.bodies import commit, open_body, open_capsule, public_half, seal_body
from cloister.vault.body_store import CAPSULES_NAME, SEALED_NAME, BodyStore

ORIGIN = "cloister/test/gateway"
SECRET = bytes(range(32))
PUBLIC = public_half(SECRET)
CANARY = b"canary-5d2a-only-in-bodies"


def reveal(store: BodyStore, commitment: bytes, origin: str = ORIGIN, secret: bytes = SECRET) -> bytes:
    kept = store.fetch(commitment)
    return open_body(kept.sealed, open_capsule(kept.capsule, secret, commitment, origin), commitment, origin)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), st.integers(16_300, 16_500).map(lambda n: b"x" * n)))
def test_what_was_sealed_opens_and_nothing_else_does(body: bytes) -> None:
    sealed = seal_body(body, "prompt", PUBLIC, ORIGIN)
    key = open_capsule(sealed.capsule, SECRET, sealed.commitment, ORIGIN)
    assert open_body(sealed.sealed, key, sealed.commitment, ORIGIN) == body
    other = seal_body(body, "prompt", PUBLIC, ORIGIN)
    assert other.commitment != sealed.commitment
    assert other.sealed != sealed.sealed
    for bad in (
        sealed.sealed[:-1],
        sealed.sealed[:40],
        b"",
        sealed.sealed[:-1] + bytes([sealed.sealed[-1] ^ 1]),
        sealed.sealed + b"x",
    ):
        with pytest.raises(Tampered):
            open_body(bad, key, sealed.commitment, ORIGIN)
    with pytest.raises(Tampered):
        open_body(sealed.sealed, key, other.commitment, ORIGIN)
    with pytest.raises(Tampered):
        open_body(other.sealed, key, other.commitment, ORIGIN)
    for secret, commitment, origin in (
        (secrets.token_bytes(32), sealed.commitment, ORIGIN),
        (SECRET, other.commitment, ORIGIN),
        (SECRET, sealed.commitment, "cloister/other/gateway"),
    ):
        with pytest.raises(Tampered):
            open_capsule(sealed.capsule, secret, commitment, origin)
    assert commit(b"s" * 32, body) != commit(b"t" * 32, body)


def test_a_body_that_was_not_committed_to_is_found_out() -> None:
    """A keeper that seals one body under the commitment of another."""
    from cryptography.cobblestone import Cobblestone256Encryptor

    from cloister.vault.bodies import _context

    key, commitment = secrets.token_bytes(32), commit(b"s" * 32, b"the true body")
    encryptor = Cobblestone256Encryptor(key, _context(ORIGIN, commitment))
    forged = encryptor.update(b"s" * 32 + b"another body!") + encryptor.finalize()
    with pytest.raises(Tampered, match="not the body"):
        open_body(forged, key, commitment, ORIGIN)


def test_bodies_are_kept_fetched_and_private(tmp_path: Path) -> None:
    store = BodyStore(tmp_path / "bodies")
    bodies = [seal_body(CANARY + b"%d" % n, "answer", PUBLIC, ORIGIN) for n in range(20)]
    store.keep(bodies, "2026-11-21")
    for number, body in enumerate(bodies):
        assert reveal(store, body.commitment) == CANARY + b"%d" % number
    assert store.count() == 20
    with pytest.raises(Conflict):
        store.keep(bodies[:1], "2026-11-21")
    with pytest.raises(NotFound, match="no body is kept"):
        store.fetch(bytes(32))
    store.close()
    for path in (tmp_path / "bodies").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert CANARY not in path.read_bytes()


def capsule_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob(CAPSULES_NAME + "*"))


def test_a_shredded_body_leaves_nothing_that_opens_it(tmp_path: Path) -> None:
    folder = tmp_path / "bodies"
    store = BodyStore(folder)
    days = ["2026-11-19", "2026-11-20", "2026-11-21"]
    by_day = {
        day: [seal_body(secrets.token_bytes(90_000), "prompt", PUBLIC, ORIGIN) for _ in range(8)]
        for day in days
    }
    for day, bodies in by_day.items():
        for body in bodies:
            store.keep([body], day)
    one = by_day["2026-11-21"][3]
    assert one.capsule[:40] in capsule_bytes(folder)
    assert store.shred("by alice", commitment=one.commitment) == 1
    assert store.shred("by bob", commitment=one.commitment) == 0
    with pytest.raises(NotFound, match="shredded: by alice"):
        store.fetch(one.commitment)
    assert store.count(before="2026-11-21") == 16
    before = (folder / SEALED_NAME).stat().st_size
    assert store.shred("old", before="2026-11-21") == 16
    assert store.count() == 7
    assert (folder / SEALED_NAME).stat().st_size < before // 2
    gone = [one, *by_day["2026-11-19"], *by_day["2026-11-20"]]
    left = [body for body in by_day["2026-11-21"] if body is not one]
    for body in left:
        reveal(store, body.commitment)
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    for body in gone:
        assert body.capsule[10:50] not in everything
        assert body.sealed[1000:1040] not in everything
    for body in left:
        assert body.capsule[10:50] in everything
    with pytest.raises(InvalidInput):
        store.shred("both", commitment=one.commitment, before="2026-11-21")
    store.close()


def test_the_ciphertexts_alone_open_nothing_and_a_missing_one_is_named(tmp_path: Path) -> None:
    store = BodyStore(tmp_path / "bodies")
    body = seal_body(b"body", "prompt", PUBLIC, ORIGIN)
    store.keep([body], "2026-11-21")
    store.close()
    (tmp_path / "bodies" / CAPSULES_NAME).rename(tmp_path / "apart.db")
    (tmp_path / "bodies" / (CAPSULES_NAME + "-journal")).unlink(missing_ok=True)
    store = BodyStore(tmp_path / "bodies")
    with pytest.raises(NotFound):
        store.fetch(body.commitment)
    store.close()
    (tmp_path / "apart.db").rename(tmp_path / "bodies" / CAPSULES_NAME)
    database = sqlite3.connect(tmp_path / "bodies" / SEALED_NAME)
    database.execute("DELETE FROM bodies")
    database.commit()
    database.close()
    store = BodyStore(tmp_path / "bodies")
    with pytest.raises(Tampered, match="missing"):
        store.fetch(body.commitment)
    store.close()


def test_two_stores_over_one_folder_keep_and_shred_side_by_side(tmp_path: Path) -> None:
    keeper, shredder = BodyStore(tmp_path / "bodies"), BodyStore(tmp_path / "bodies")
    kept: list[bytes] = []
    failures: list[BaseException] = []

    def keep() -> None:
        try:
            for _ in range(40):
                body = seal_body(b"body", "prompt", PUBLIC, ORIGIN)
                keeper.keep([body], "2026-11-21")
                kept.append(body.commitment)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=keep)
    thread.start()
    shredded = set()
    while thread.is_alive() or len(shredded) < 10:
        for commitment in kept[:10]:
            if commitment not in shredded:
                assert shredder.shred("one", commitment=commitment) == 1
                shredded.add(commitment)
    thread.join()
    assert not failures
    assert keeper.count() == 30
    for commitment in kept[10:]:
        assert reveal(shredder, commitment) == b"body"
    keeper.close()
    shredder.close()


@pytest.mark.parametrize("name", [SEALED_NAME, CAPSULES_NAME])
def test_a_damaged_store_is_named(tmp_path: Path, name: str) -> None:
    BodyStore(tmp_path / "bodies").close()
    (tmp_path / "bodies" / name).write_bytes(b"not a database" * 100)
    with pytest.raises(CloisterError) as raised:
        BodyStore(tmp_path / "bodies")
    assert raised.value.where == str(tmp_path / "bodies" / name)


LOCKING = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    database.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError:
    sys.exit(3)
"""


def test_a_store_that_is_opened_beside_another_leaves_it_its_locks(tmp_path: Path) -> None:
    """POSIX drops a process's locks on a file when any descriptor of it is closed (fcntl(2))."""

    def others_may_write() -> bool:
        told = subprocess.run([sys.executable, "-c", LOCKING, str(tmp_path / CAPSULES_NAME)], check=False)
        return told.returncode != 3

    store = BodyStore(tmp_path)
    with store._change(store._capsules, CAPSULES_NAME):
        assert not others_may_write()
        beside = threading.Thread(target=lambda: BodyStore(tmp_path).close())  # it waits for its own turn
        beside.start()
        time.sleep(0.1)
        assert not others_may_write(), "another process would write into the middle of this transaction"
    beside.join()
    assert others_may_write()
    store.close()
