"""Proofs from a log's files, and copies that are brought up to date while the log is written."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_samples import ORIGIN, sample

from cloister import verifier
from cloister.errors import Conflict, NotFound, Tampered
from cloister.ledger import Ledger, Settings, merkle
from cloister.ledger.export import LogFolder, carry
from cloister.ledger.note import VerifierKey, sign_head
from cloister.ledger.proof import prove
from cloister.ledger.tiles import TileStore, Tree, parse_tile_path, tile_name

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = str(VerifierKey.of(ORIGIN, SIGNER))
KEY = verifier.parse_vkey(VKEY)


def build(root: Path, numbers: range) -> None:
    with Ledger.open(root, origin=ORIGIN, signer=SIGNER) as ledger:
        for future in [ledger.submit(sample(number)) for number in numbers]:
            future.result()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copies") / "log"
    build(root, range(1000))
    return root


# --- proofs ----------------------------------------------------------------------------------------------


def test_a_proof_holds_its_entry_and_verifies_with_the_key_alone(log: Path) -> None:
    for index in (0, 255, 256, 767, 768, 999):
        report = verifier.verify_proof(prove(log, index).encode(), [KEY])
        assert (report.index, report.size, report.origin) == (index, 1000, ORIGIN)
        assert f'"number": {index}' in report.entry


@pytest.mark.parametrize("index", [1000, 10**12])
def test_there_is_no_proof_of_what_is_not_signed(log: Path, index: int) -> None:
    with pytest.raises(NotFound, match="1000"):
        prove(log, index)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("tile/entries/001", "tile/entries/001"),
        ("tile/0/001", "tile/entries/001"),
        ("tile/1/000.p/3", ""),
        ("checkpoint", "checkpoint"),
        ("vkey", "vkey"),
    ],
)
def test_no_proof_is_made_from_damaged_files(log: Path, tmp_path: Path, name: str, where: str) -> None:
    root = Path(shutil.copytree(log, tmp_path / "log"))
    data = (root / name).read_bytes()
    at = data.index(b'"number":300') if b"entries" in name.encode() else (32 * 44 if "/0/" in name else 20)
    (root / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(Tampered) as raised:
        prove(root, 300)
    assert raised.value.where == str(root / where)


def test_a_changed_byte_anywhere_in_a_proof_is_found(log: Path) -> None:
    good = prove(log, 300).encode()
    for at in range(len(good)):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(verifier.VerificationError):
            verifier.verify_proof(bad, [KEY])


def test_a_proof_with_cosignatures_carries_them(log: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(log, tmp_path / "log"))
    keys = []
    for name in ("one", "two"):
        with verifier.Witness(tmp_path / name, f"witness.test/{name}") as witness:
            witness.visit(root, [KEY])
            keys.append(witness.key)
    build(root, range(1000, 1300))
    report = verifier.verify_proof(prove(root, 7).encode(), [KEY], witnesses=keys)
    assert report.size == 1000
    assert sorted(one.witness for one in report.cosignatures) == ["witness.test/one", "witness.test/two"]
    newer = prove(root, 1200).encode()
    assert verifier.verify_proof(newer, [KEY]).size == 1300
    with pytest.raises(verifier.VerificationError, match="no cosignature of witness"):
        verifier.verify_proof(newer, [KEY], witnesses=keys[:1])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 1500), st.data())
def test_proofs_of_random_trees_verify_and_those_of_other_entries_do_not(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("tree")
    entries = [b'{"n":%d}' % number for number in range(size)]
    tree, _ = Tree(TileStore(root)).grow(entries, [merkle.leaf_hash(entry) for entry in entries])
    (root / "checkpoint").write_text(sign_head(SIGNER, ORIGIN, size, tree.root()).signed_note or "")
    (root / "vkey").write_text(f"{VKEY}\n")
    assert verifier.verify_log(root, VKEY).problems == []
    index = data.draw(st.integers(0, size - 1))
    proof = prove(root, index).encode()
    assert verifier.verify_proof(proof, [KEY]).entry == f'{{"n": {index}}}'
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        with pytest.raises(verifier.VerificationError):
            verifier.verify_proof(proof, [KEY], entry=entries[other])
        with pytest.raises(verifier.VerificationError):
            verifier.verify_proof(proof.replace(b"index %d\n" % index, b"index %d\n" % other), [KEY])
    older = data.draw(st.integers(1, size))
    since = sign_head(SIGNER, ORIGIN, older, merkle.range_hash(tree.node, 0, older)).signed_note or ""
    assert verifier.verify_log(root, VKEY, since=since.encode()).problems == []
    lie = sign_head(SIGNER, ORIGIN, older, b"\x01" * 32).signed_note or ""
    assert any("forked" in line for line in verifier.verify_log(root, VKEY, since=lie.encode()).problems)
    shutil.rmtree(root)


# --- copies ------------------------------------------------------------------------------------------------


def test_a_carried_copy_grows_by_what_is_new(log: Path, tmp_path: Path) -> None:
    root, copy = Path(shutil.copytree(log, tmp_path / "log")), tmp_path / "stick"
    assert carry(LogFolder(root), copy) is not None
    old = {path: path.stat().st_ino for path in copy.rglob("*") if path.is_file()}
    note = (copy / "checkpoint").read_bytes()
    for stop in (1001, 1023, 1024, 2500):
        with Ledger.open(root, origin=ORIGIN, signer=SIGNER) as ledger:
            before = ledger.size
        build(root, range(before, stop))
        carried = carry(LogFolder(root), copy)
        assert carried is not None
        assert (carried.before, carried.size) == (before, stop)
        report = verifier.verify_log(copy, VKEY, since=note)
        assert (report.problems, report.signed) == ([], stop)
    full = [path for path in old if path.parent.name in ("0", "entries")]
    assert len(full) == 6
    assert all(path.stat().st_ino == old[path] for path in full), "full tiles are copied once"
    assert len(list(copy.rglob("*.p/*"))) == len({path.parent for path in copy.rglob("*.p/*")})


def test_a_log_is_copied_while_it_is_written(open_ledger: Callable[..., Ledger], tmp_path: Path) -> None:
    ledger = open_ledger(settings=Settings(journal_bytes=1 << 14, sign_after_s=0.002))
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set() and number < 20_000:
            ledger.append(sample(number))
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        ledger.flush()
        head = b""
        for _ in range(8):
            assert carry(LogFolder(tmp_path / "log"), tmp_path / "copy") is not None
            report = verifier.verify_log(tmp_path / "copy", VKEY, since=head or None)
            assert report.problems == []
            head = (tmp_path / "copy" / "checkpoint").read_bytes()
    finally:
        stop.set()
        thread.join()


def test_a_carried_copy_shows_a_rollback_and_a_fork_by_itself(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    carry(LogFolder(log), copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    build(tmp_path / "shorter", range(600))
    with pytest.raises(Tampered, match="rolled back"):
        carry(LogFolder(tmp_path / "shorter"), copy)
    build(tmp_path / "other", range(1, 1200))
    with pytest.raises(Tampered, match="forked"):
        carry(LogFolder(tmp_path / "other"), copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_nothing_is_written_into_other_folders(log: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(Conflict):
        carry(LogFolder(log), tmp_path / "photos")
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("tile", "journal", "cosigned"):
        stick = tmp_path / f"stick-{name}"
        stick.mkdir()
        (stick / name).symlink_to(victim)
        with pytest.raises(Conflict, match="link"):
            carry(LogFolder(log), stick)
    assert not list(victim.iterdir())
    carry(LogFolder(log), tmp_path / "good")
    note = (tmp_path / "good" / "checkpoint").read_text()
    (tmp_path / "good" / "checkpoint").write_text(note.replace("\n1000\n", "\n1001\n"))
    with pytest.raises(Conflict, match="signature"):
        carry(LogFolder(log), tmp_path / "good")


def test_an_interrupted_copy_is_taken_up(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The medium is pulled out at every write in turn."""
    real, copy = os.replace, tmp_path / "copy"
    left = 0

    def pulled(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "Input/output error", str(target))
        real(self, target)
        return target

    for number in range(60):
        left = number
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", pulled)
            try:
                carry(LogFolder(log), copy)
                break
            except OSError:
                pass
        assert carry(LogFolder(log), copy) is not None
        assert verifier.verify_log(copy, VKEY).problems == []
        shutil.rmtree(copy)
    assert number >= 5, "it writes that many files"


def test_paths_of_tiles_are_read_as_they_are_written() -> None:
    for level in (None, 0, 1, 63):
        for index in (0, 7, 999, 1_000, 1_234_067, 10**15):
            for width in (1, 200, 256):
                path = f"{'entries' if level is None else level}/{tile_name(index, width)}"
                assert parse_tile_path(path) == (level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "0",
            "0/",
            "0/1",
            "0/0001",
            "0/001.p",
            "0/001.p/",
            "0/001.p/0",
            "0/001.p/01",
            "0/001.p/256",
            "0/001.p/999",
        ),
        *(
            "64/001",
            "00/001",
            "-1/001",
            "0/x000/001",
            "0/x01/001",
            "0/000/001",
            "entry/001",
            "entries/../001",
        ),
        *("0/001/", "0//001", "../vkey", "0/001\n", "0/٠٠١", "0/" + "x001/" * 6 + "001"),
    ],
)
def test_other_paths_are_no_tiles(path: str) -> None:
    assert parse_tile_path(path) is None
