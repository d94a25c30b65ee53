"""Attacks on a copy: each is found by the verifier, and those on files that are read at opening by the ledger."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_samples import ORIGIN, sample

from cloister import verifier
from cloister.errors import Tampered
from cloister.ledger import Ledger, Settings, merkle
from cloister.ledger.note import VerifierKey, sign_head
from cloister.ledger.tiles import TileStore, Tree, pack, unpack

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = str(VerifierKey.of(ORIGIN, SIGNER))
SIZE = 700


def build(root: Path, count: int = SIZE, *, first: int = 0, unsigned: int = 3) -> None:
    with Ledger.open(root, origin=ORIGIN, signer=SIGNER, settings=Settings(sign_after_s=3600)) as ledger:
        for start, stop in ((0, count - 60), (count - 60, count)):
            for future in [ledger.submit(sample(first + number)) for number in range(start, stop)]:
                future.result()
            ledger.flush()
        ledger.detach_signer()
        for number in range(unsigned):
            ledger.append(sample(number))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ledger") / "log"
    build(root)
    return root


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def problems(root: Path, since: bytes | None = None) -> list[str]:
    return verifier.verify_log(root, VKEY, since=since).problems


def open_copy(root: Path) -> None:
    Ledger.open(root, origin=ORIGIN, signer=SIGNER).close()


def test_an_untouched_copy_passes(copy: Path) -> None:
    report = verifier.verify_log(copy, VKEY)
    assert (report.problems, report.entries, report.signed, report.unsigned) == ([], SIZE + 3, SIZE, 3)
    open_copy(copy)


def sound_files(root: Path) -> list[Path]:
    """All files that hold something of the log, with the journal's."""
    files = [path for path in root.rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(path for path in files if path.name not in ("lock", "spare", "vkey", "emergency"))


def test_one_changed_byte_anywhere_is_found_and_its_file_named(original: Path, tmp_path: Path) -> None:
    rng = random.Random(4)
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    files = sound_files(copy)
    assert len(files) == 11
    for path in files:
        good = path.read_bytes()
        used = len(good.rstrip(b"\x00"))
        for at in {0, used - 1, *(rng.randrange(used) for _ in range(6))}:
            path.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
            found = problems(copy)
            name = str(path.relative_to(copy))
            assert any(line.startswith(f"{name}:") for line in found), (name, at, found)
            assert len(found) <= 2, found
        path.write_bytes(good)
    assert problems(copy) == []


def test_a_changed_byte_in_what_is_read_at_opening_is_tampered(original: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    stale = {"tile/0/002.p/128", "tile/entries/002.p/128"}
    for path in sound_files(copy):
        name = str(path.relative_to(copy))
        if name in stale:
            continue
        good = path.read_bytes()
        at = rng.randrange(len(good.rstrip(b"\x00")))
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(Tampered) as raised:
            open_copy(copy)
        assert raised.value.where == str(path), name
        assert path.read_bytes() != good
        path.write_bytes(good)
    open_copy(copy)


def test_a_missing_file_is_named(original: Path, tmp_path: Path) -> None:
    for name in (
        "tile/0/001",
        "tile/entries/000",
        "tile/1/000.p/2",
        "tile/0/002.p/188",
        "tile/entries/002.p/188",
    ):
        copy = Path(shutil.copytree(original, tmp_path / "copy"))
        (copy / name).unlink()
        assert any(line.startswith(f"{name}: missing") for line in problems(copy)), name
        with pytest.raises(Tampered) as raised:
            open_copy(copy)
        assert raised.value.where == str(copy / name)
        shutil.rmtree(copy)


def test_a_missing_tree_head_is_found(copy: Path) -> None:
    (copy / "checkpoint").unlink()
    assert "checkpoint: missing" in problems(copy)
    with pytest.raises(Tampered, match="missing"):
        open_copy(copy)


def rewrite(root: Path, change: Callable[[list[bytes]], list[bytes]], *, sign: bool = False) -> None:
    """Replace the log's tree by one over changed entries, as someone who can write every file would."""
    entries = [
        entry
        for index, width in ((0, 256), (1, 256), (2, SIZE - 512))
        for entry in TileStore(root).entries(index, width)
    ]
    entries = change(entries)
    shutil.rmtree(root / "tile")
    shutil.rmtree(root / "journal")
    tree, _ = Tree(TileStore(root)).grow(entries, [merkle.leaf_hash(entry) for entry in entries])
    if sign:
        (root / "checkpoint").write_text(sign_head(SIGNER, ORIGIN, tree.size, tree.root()).signed_note or "")


def edit(entries: list[bytes]) -> list[bytes]:
    return [*entries[:300], entries[300].replace(b"uid:1000", b"uid:1001"), *entries[301:]]


def reorder(entries: list[bytes]) -> list[bytes]:
    return [*entries[:10], entries[11], entries[10], *entries[12:]]


def insert(entries: list[bytes]) -> list[bytes]:
    return [*entries[:10], entries[0], *entries[10:]]


def truncate(entries: list[bytes]) -> list[bytes]:
    return entries[:600]


CHANGES = [edit, reorder, insert, truncate]


@pytest.mark.parametrize("change", CHANGES)
def test_a_rewritten_tree_under_the_old_head_is_found(copy: Path, change: Callable[..., list[bytes]]) -> None:
    rewrite(copy, change)
    assert problems(copy)
    with pytest.raises(Tampered):
        open_copy(copy)


@pytest.mark.parametrize("change", CHANGES)
def test_a_fork_signed_with_the_right_key_is_found_against_an_earlier_head(
    copy: Path, change: Callable[..., list[bytes]]
) -> None:
    """The log's own key signs another past. Only a tree head that has left the machine shows it."""
    earlier = (copy / "checkpoint").read_bytes()
    rewrite(copy, change, sign=True)
    assert problems(copy) == []
    found = problems(copy, since=earlier)
    assert any(word in line for line in found for word in ("forked", "rolled back")), found


def test_a_rollback_to_an_older_copy_is_found_against_the_newer_head(original: Path, tmp_path: Path) -> None:
    build(tmp_path / "older", count=SIZE - 100, unsigned=0)
    head = (original / "checkpoint").read_bytes()
    assert problems(tmp_path / "older") == []
    assert any("rolled back" in line for line in problems(tmp_path / "older", since=head))
    shutil.rmtree(tmp_path / "older" / "tile")
    assert problems(original, since=(tmp_path / "older" / "checkpoint").read_bytes()) == []


def test_another_key_or_another_log_is_found(copy: Path, tmp_path: Path) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
    note = verifier.parse_tree_head((copy / "checkpoint").read_text().partition("\n\n")[0] + "\n")
    (copy / "checkpoint").write_text(sign_head(other, ORIGIN, note.size, note.root).signed_note or "")
    assert any("not signed by" in line for line in problems(copy))
    with pytest.raises(Tampered):
        open_copy(copy)
    build(tmp_path / "second", first=5000)
    for name in ("tile/0/001", "tile/entries/001"):
        shutil.copy(tmp_path / "second" / name, copy / name)
    shutil.copy(tmp_path / "second" / "checkpoint", copy / "checkpoint")
    assert problems(copy)


def test_tile_and_bundle_edited_together_are_both_named(copy: Path) -> None:
    bundle, tile = copy / "tile/entries/001", copy / "tile/0/001"
    entries = unpack(bundle.read_bytes()) or []
    entries[5] = entries[5].replace(b"uid:1000", b"uid:1001")
    bundle.write_bytes(pack(entries))
    tile.write_bytes(b"".join(merkle.leaf_hash(entry) for entry in entries))
    assert sorted(problems(copy)) == [
        "journal/0000000001: entry 261 is not the one in the tree",
        "tile/0/001: does not match the tree",
        "tile/entries/001: does not match the tree",
    ]


def test_a_forged_partial_tile_and_a_stray_file_are_found(copy: Path) -> None:
    forged = copy / "tile/0/002.p/17"
    forged.write_bytes(b"\x01" * 32 * 17)
    stray = copy / "tile/entries/x001/000"
    stray.parent.mkdir()
    stray.write_bytes(pack([b"{}"] * 256))
    (copy / "tile/notes.txt").write_text("hello")
    found = problems(copy)
    for name in ("tile/0/002.p/17", "tile/entries/x001/000", "tile/notes.txt"):
        assert any(line.startswith(f"{name}:") for line in found), name


def test_an_unsigned_entry_that_is_not_the_next_is_found(copy: Path) -> None:
    """The journal's entries below the tree head must be those of the tree."""
    (path,) = [path for path in (copy / "journal").iterdir() if path.name.isdigit()]
    from cloister.ledger.frames import frame, seed

    record = sample(99).canonical()
    data, _ = frame(seed(ORIGIN), SIZE - 1, [len(record).to_bytes(2, "big") + record])
    path.write_bytes(data)
    assert any("is not the one in the tree" in line for line in problems(copy))
