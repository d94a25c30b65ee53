"""What happens to a ledger that is cut off, fills its disk, or whose disk fails: nothing acknowledged is lost."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_samples import ORIGIN, sample

from cloister import verifier
from cloister.errors import LedgerUnavailable, Tampered
from cloister.ledger import Ledger, Settings
from cloister.ledger.frames import frame, read_frames, seed
from cloister.ledger.journal import Journal
from cloister.ledger.note import VerifierKey

Open = Callable[..., Ledger]
SMALL = Settings(journal_bytes=1 << 14, emergency_bytes=1 << 12, sign_after_s=0.01, retry_s=0.02)


@pytest.fixture
def vkey(signer: Ed25519PrivateKey) -> str:
    return str(VerifierKey.of(ORIGIN, signer))


# --- torn writes -------------------------------------------------------------------------------------


def journal_of(ledger: Ledger) -> Path:
    (path,) = [path for path in (ledger.root / "journal").iterdir() if path.name.isdigit()]
    return path


def torn(whole: bytes, start: int, stop: int, rng: random.Random) -> Iterator[bytes]:
    """Ways in which a write of whole[start:stop] into zeros can reach the disk in part."""
    cuts = {start, start + 1, stop - 1, *(rng.randrange(start, stop) for _ in range(6))}
    for cut in sorted(cuts):
        yield whole[:cut] + bytes(len(whole) - cut)  # up to a byte; zeros behind it
        yield whole[:cut]  # the file itself is shorter
    sectors = [start, *range((start // 512 + 1) * 512, stop, 512), stop]
    for first, last in pairwise(sectors):
        yield whole[:first] + bytes(last - first) + whole[last:]  # one sector missing


def test_a_torn_tail_loses_only_what_was_never_acknowledged(
    open_ledger: Open, tmp_path: Path, vkey: str
) -> None:
    ledger = open_ledger(signer=None, settings=SMALL)
    ends = []
    for number in range(4):
        ledger.append(sample(number, pad=500 * number))
        frames = list(read_frames(journal_of(ledger), journal_of(ledger).read_bytes(), ORIGIN))
        ends.append(frames[-1].stop)
    whole = journal_of(ledger).read_bytes()
    ledger.close()
    rng = random.Random(1)
    tried = 0
    for kept in range(4):
        start = ends[kept - 1] if kept else 0
        present = whole[: ends[kept]] + bytes(len(whole) - ends[kept])
        for variant in torn(present, start, ends[kept], rng):
            root = tmp_path / f"copy{tried}"
            (root / "journal").mkdir(parents=True)
            (root / "journal" / "0000000001").write_bytes(variant)
            report = verifier.verify_log(root, vkey)
            assert (report.problems, report.unsigned) == ([], kept)
            again = open_ledger(root=root, signer=None, settings=SMALL)
            assert again.size == kept
            assert again.append(sample(99)) == kept
            again.close()
            shutil.rmtree(root)
            tried += 1
    assert tried > 70


def test_a_changed_byte_in_the_journal_is_no_torn_tail(open_ledger: Open, tmp_path: Path, vkey: str) -> None:
    ledger = open_ledger(signer=None, settings=SMALL)
    for number in range(3):
        ledger.append(sample(number))
    path = journal_of(ledger)
    frames = list(read_frames(path, path.read_bytes(), ORIGIN))
    whole = path.read_bytes()
    ledger.close()
    for at in [*random.Random(2).sample(range(frames[-1].stop), 40), frames[-1].stop - 1]:
        root = tmp_path / "copy"
        (root / "journal").mkdir(parents=True)
        bad = root / "journal" / "0000000001"
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert "journal/0000000001: damaged" in "".join(verifier.verify_log(root, vkey).problems)
        with pytest.raises(Tampered) as raised:
            open_ledger(root=root, signer=None, settings=SMALL)
        assert raised.value.where == str(bad)
        shutil.rmtree(root)


def test_journals_of_another_log_or_out_of_place_are_refused(open_ledger: Open, tmp_path: Path) -> None:
    folder = tmp_path / "log" / "journal"
    folder.mkdir(parents=True)
    record = (5).to_bytes(2, "big") + b'"one"'
    for before, first in ((seed("other.test"), 0), (seed(ORIGIN), 7)):
        (folder / "0000000001").write_bytes(frame(before, first, [record])[0])
        with pytest.raises(Tampered) as raised:
            open_ledger(settings=SMALL)
        assert raised.value.where == str(folder / "0000000001")


def test_a_crash_between_tiles_and_tree_head_is_taken_up(
    open_ledger: Open, tmp_path: Path, vkey: str
) -> None:
    """The files of a larger tree are there already, its head is not: the journal still holds the entries."""
    for part in (300, 400):
        ledger = open_ledger(settings=Settings(sign_after_s=3600))
        for future in [ledger.submit(sample(number)) for number in range(part)]:
            future.result()
        note = (tmp_path / "log/checkpoint").read_bytes()
        ledger.close()
        old = tmp_path / f"old{part}"
        shutil.copytree(tmp_path / "log", old)
        (old / "checkpoint").write_bytes(note)
        report = verifier.verify_log(old, vkey)
        assert (report.problems, report.signed, report.entries) == ([], ledger.size - part, ledger.size)
        again = open_ledger(root=old)
        again.flush()
        assert (again.size, again.signed_size) == (ledger.size, ledger.size)
        assert again.head() == ledger.head()


# --- kills ---------------------------------------------------------------------------------------------


def test_kill_9_at_random_moments_loses_nothing_acknowledged(
    open_ledger: Open, tmp_path: Path, vkey: str
) -> None:
    rng = random.Random(3)
    root = tmp_path / "log"
    acknowledged: dict[int, tuple[int, int]] = {}
    script = Path(__file__).with_name("ledger_samples.py")
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, str(script), str(root), "4"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(rng.randrange(1, 60))]
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith("\n") and line.count(" ") == 2:
                index, number, pad = map(int, line.split())
                assert index not in acknowledged
                acknowledged[index] = (number, pad)
        report = verifier.verify_log(root, vkey)
        assert report.problems == []
        assert report.entries > max(acknowledged)
    ledger = open_ledger(settings=SMALL)
    entries = list(ledger.raw_entries(0, ledger.size))
    for index, (number, pad) in acknowledged.items():
        assert entries[index] == sample(number, pad=pad).canonical()
    ledger.flush()
    assert verifier.verify_log(root, vkey).signed == ledger.size
    assert len(acknowledged) > 100


# --- a full disk -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return ballast


def append_until_refused(ledger: Ledger) -> int:
    for number in range(10_000):
        try:
            ledger.append(sample(number))
        except LedgerUnavailable:
            return number
    raise AssertionError("never refused")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


def test_a_full_disk_refuses_lets_urgent_entries_through_and_recovers(
    open_ledger: Open, small_disk: Path, vkey: str
) -> None:
    root = small_disk / "log"
    ledger = open_ledger(root=root, settings=SMALL)
    for number in range(20):
        ledger.append(sample(number))
    ballast = fill_disk(small_disk)
    taken = 20 + append_until_refused(ledger)
    assert "No space left" in (ledger.failure or "")
    with pytest.raises(LedgerUnavailable) as raised:
        ledger.append(sample(0))
    assert raised.value.where is not None
    assert raised.value.remedy is not None
    assert ledger.append(sample(7001), urgent=True) == taken
    assert ledger.submit(sample(7002), urgent=True).result() == taken + 1
    assert ledger.size == taken + 2
    assert verifier.verify_log(root, vkey).problems == []
    assert verifier.verify_log(root, vkey).entries == taken + 2
    ballast.unlink()
    wait_until(lambda: ledger.failure is None)
    assert ledger.append(sample(7003)) == taken + 2
    ledger.flush()
    numbers = [entry["details"]["number"] for entry in ledger.entries(taken, taken + 3)]
    assert numbers == [7001, 7002, 7003]
    report = verifier.verify_log(root, vkey)
    assert (report.problems, report.signed) == ([], taken + 3)


def test_a_full_disk_at_opening_still_takes_urgent_entries(
    open_ledger: Open, small_disk: Path, vkey: str
) -> None:
    root = small_disk / "log"
    ledger = open_ledger(root=root, settings=SMALL)
    for number in range(20):
        ledger.append(sample(number))
    ledger.close()
    ballast = fill_disk(small_disk)
    for turn in range(2):
        ledger = open_ledger(root=root, settings=SMALL)
        assert "No space left" in (ledger.failure or "")
        assert ledger.append(sample(8000 + turn), urgent=True) == 20 + turn
        ledger.close()
        assert verifier.verify_log(root, vkey).entries == 21 + turn
    ballast.unlink()
    ledger = open_ledger(root=root, settings=SMALL)
    assert ledger.failure is None
    assert [entry["details"]["number"] for entry in ledger.entries(19, 30)] == [19, 8000, 8001]
    ledger.flush()
    assert verifier.verify_log(root, vkey).signed == 22


def test_the_emergency_space_ends_with_a_clear_refusal(open_ledger: Open, small_disk: Path) -> None:
    ledger = open_ledger(root=small_disk / "log", settings=SMALL)
    fill_disk(small_disk)
    append_until_refused(ledger)
    with pytest.raises(LedgerUnavailable, match="emergency space is used up"):
        for number in range(100):
            ledger.append(sample(number), urgent=True)


def test_a_file_size_limit_counts_as_a_full_disk(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger(settings=Settings(journal_bytes=1 << 15, emergency_bytes=1 << 12, retry_s=0.02))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, hard))
    try:
        taken = append_until_refused(ledger)
        assert ledger.append(sample(1), urgent=True) == taken
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    wait_until(lambda: ledger.failure is None)
    assert ledger.append(sample(2)) == taken + 1


# --- a failing disk -------------------------------------------------------------------------------------------


class FailingSync:
    """Stands in for one of os's sync calls and fails as a disk does, from `after` calls on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.broken = False
        self._real = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._real(descriptor)


def test_after_a_failed_sync_nothing_is_acknowledged_until_recovered(
    open_ledger: Open, tmp_path: Path, vkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = FailingSync(monkeypatch, "fdatasync")
    ledger = open_ledger(settings=SMALL)
    assert ledger.append(sample(0)) == 0
    sync.broken = True
    with pytest.raises(LedgerUnavailable, match="Input/output error"):
        ledger.append(sample(1))
    sync.broken = False  # the disk says it is well again: that is not to be believed
    with pytest.raises(LedgerUnavailable):
        ledger.append(sample(2))
    assert ledger.append(sample(3), urgent=True) == 1
    time.sleep(3 * SMALL.retry_s)
    assert ledger.failure is not None
    # A copy taken now holds the refused entry in its journal, and the urgent one in the same place.
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "log", copy)
    assert verifier.verify_log(copy, vkey).problems == []
    again = open_ledger(root=copy, settings=SMALL)
    assert [entry["details"]["number"] for entry in again.entries(0, 9)] == [0, 3]
    ledger.recover()
    assert ledger.failure is None
    assert ledger.append(sample(4)) == 2
    ledger.flush()
    assert [entry["details"]["number"] for entry in ledger.entries(0, 9)] == [0, 3, 4]
    report = verifier.verify_log(tmp_path / "log", vkey)
    assert (report.problems, report.signed) == ([], 3)


def test_a_tree_that_cannot_be_synced_fails_the_ledger_and_keeps_what_is_durable(
    open_ledger: Open, tmp_path: Path, vkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = FailingSync(monkeypatch, "fsync")
    ledger = open_ledger(settings=SMALL)
    sync.broken = True
    assert ledger.append(sample(0)) == 0
    wait_until(lambda: ledger.failure is not None)
    with pytest.raises(LedgerUnavailable):
        ledger.flush()
    with pytest.raises(LedgerUnavailable):
        ledger.recover()
    assert ledger.size == 1
    sync.broken = False
    ledger.recover()
    ledger.flush()
    assert verifier.verify_log(tmp_path / "log", vkey).signed == 1


def test_a_folder_that_cannot_be_written_is_unavailable(open_ledger: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerUnavailable):
        open_ledger(root=tmp_path / "file" / "log")


def test_an_emergency_space_that_cannot_be_opened_again_is_let_go_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may by then be the file of somebody else: nothing is closed or written there."""
    journal = Journal(tmp_path / "journal", ORIGIN, file_bytes=1 << 12, emergency_bytes=1 << 12)
    journal.start(0, [b"\x00\x01a"])
    assert journal.emergency is not None
    journal.emergency.append(1, [b"\x00\x01b"])

    def none_left(journal: Journal) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "open_emergency", none_left)
        with pytest.raises(OSError):
            journal.start(0, [b"\x00\x01a", b"\x00\x01b"])
    theirs = [os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT) for _ in range(4)]
    assert journal.emergency is None
    journal.start(0, [b"\x00\x01a", b"\x00\x01b"])
    journal.close()
    for descriptor in theirs:
        assert os.fstat(descriptor).st_size == 0
        os.close(descriptor)
