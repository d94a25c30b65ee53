"""Copies made to hurt the verifier: links, pipes, huge and endless files, deep and ambiguous JSON."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister import verifier
from cloister.ledger import Entry, Ledger, merkle
from cloister.ledger.frames import frame, seed
from cloister.ledger.note import VerifierKey, sign_head
from cloister.ledger.tiles import TileStore, Tree

ORIGIN = "cloister.test/hostile"
SIGNER = Ed25519PrivateKey.from_private_bytes(b"\x41" * 32)
VKEY = str(VerifierKey.of(ORIGIN, SIGNER))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "log"
    with Ledger.open(root, origin=ORIGIN, signer=SIGNER) as ledger:
        for number in range(600):
            ledger.submit(Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": number}))
    return root


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 42)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/001", "tile/entries/001", "journal/0000000001"])
@pytest.mark.parametrize("make", [link, pipe, huge, folder], ids=lambda make: make.__name__)
def test_a_file_that_is_no_plain_file_of_its_size_is_a_problem(
    copy: Path, name: str, make: Callable[[Path], None]
) -> None:
    path = copy / name if (copy / name).exists() else next((copy / "journal").glob("0*"))
    make(path)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    command = [sys.executable, "-I", verifier.__file__, "verify", str(copy), "--key", VKEY]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 29, limits[1])),
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert str(path.relative_to(copy)) in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("name", ["tile", "tile/0", "journal", "cosigned"])
def test_a_linked_folder_is_a_problem(copy: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    if (copy / name).exists():
        shutil.move(copy / name, target)
    else:
        target.mkdir()
    (copy / name).symlink_to(target)
    found = verifier.verify_log(copy, VKEY).problems
    assert any(line.startswith(f"{name}: is") for line in found), found


def signed(root: Path, *entries: bytes) -> list[str]:
    """What the verifier says of a log of these entries, properly signed."""
    tree, _ = Tree(TileStore(root)).grow(entries, [merkle.leaf_hash(entry) for entry in entries])
    (root / "checkpoint").write_text(sign_head(SIGNER, ORIGIN, tree.size, tree.root()).signed_note or "")
    return verifier.verify_log(root, VKEY, strict=True).problems


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (b"[" * 60_000, "is not JSON"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "is not JSON"),
        (b"1" * 60_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"NaN", "is not JSON"),
        (b"", "is not JSON"),
        (b'{"actor":"a","time":"2026"}x', "is not JSON"),
        (b'{"actor":"a","time":"2026","actor":"b"}', "names a key twice"),
        (b'{"time":"2999-01-01","z":{"time":"2020-01-01"}}', "dated in the future"),
        (b'{"time":"2999-01-01T00:00:00Z"}', "dated in the future"),
        (b'{"actor":"a","actor":"b","time":"2026-01-01T00:00:00Z"}', "names a key twice"),
    ],
)
def test_an_entry_that_can_be_read_two_ways_or_not_at_all_is_a_problem(
    tmp_path: Path, entry: bytes, found: str
) -> None:
    good = Entry("2026-01-01T00:00:00Z", "a", "b", "c").canonical()
    assert any(found in line for line in signed(tmp_path, good, entry, good))
    journal = tmp_path / "j" / "journal"
    journal.mkdir(parents=True)
    record = len(entry).to_bytes(2, "big") + entry
    (journal / "1").write_bytes(frame(seed(ORIGIN), 0, [record])[0])
    assert any(found in line for line in verifier.verify_log(tmp_path / "j", VKEY).problems)


def test_a_head_of_more_entries_than_there_can_be_ends(copy: Path) -> None:
    note = sign_head(SIGNER, ORIGIN, 10**18, b"\x00" * 32).signed_note or ""
    (copy / "checkpoint").write_text(note)
    report = verifier.verify_log(copy, VKEY)
    assert len(report.problems) == 1000
    assert "there may be more problems: the search ended here" in report.notes


def test_folders_of_too_many_files_end(copy: Path) -> None:
    crowd = copy / "tile" / "1"
    for number in range(5000):
        (crowd / f"{number}.x").touch()
    assert "tile/1: holds too many files" in verifier.verify_log(copy, VKEY).problems


def test_names_from_outside_reach_the_terminal_escaped(copy: Path) -> None:
    (copy / "tile" / "\x1b[2Jverified\n").touch()
    command = [sys.executable, "-I", verifier.__file__, "verify", str(copy), "--key", VKEY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT VERIFIED")


def test_memory_does_not_grow_with_the_signed_part(tmp_path: Path) -> None:
    """Ten times the entries: the same resident memory, give or take a tile a level."""
    peaks = []
    for size in (6_000, 60_000):
        root = tmp_path / str(size)
        entries = [
            Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": n}).canonical() for n in range(size)
        ]
        signed(root, *entries)
        script = (
            "import sys; from cloister.verifier import verify_log; "
            "assert verify_log(sys.argv[1], sys.argv[2]).ok; "
            "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
        )
        done = subprocess.run([sys.executable, "-c", script, str(root), VKEY], capture_output=True, text=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 2_000, peaks
