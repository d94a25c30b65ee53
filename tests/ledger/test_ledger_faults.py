"""Faults of the system's own calls, injected below the interpreter: the ledger refuses, says so, and recovers."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_samples import ORIGIN, sample

from cloister import verifier
from cloister.errors import Conflict, LedgerUnavailable
from cloister.ledger import Ledger
from cloister.ledger.note import VerifierKey

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = str(VerifierKey.of(ORIGIN, SIGNER))
HERE = Path(__file__).parent


def wait_until(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to build the fault shim with")
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-o",
        str(library),
        str(HERE / "faults.c"),
        "-ldl",
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return library


class Faulty:
    """A process over a ledger, whose calls can be made to fail. `lines` is what it has said."""

    def __init__(self, shim: Path, folder: Path) -> None:
        self.root = folder / "log"
        self.faults = folder / "faults"
        self.shim = shim
        self.lines: list[list[str]] = []
        self.process: subprocess.Popen[str] | None = None
        self.reader: threading.Thread | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "LD_PRELOAD": str(self.shim),
            "FAULT_ROOT": str(self.root),
            "FAULT_FILE": str(self.faults),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "ledger_under_fault.py"), str(self.root)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self.reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                self.lines.append(line.split())

    def fault(self, text: str) -> None:
        part = self.faults.with_suffix(".part")
        part.write_text(text)
        part.replace(self.faults)

    def mend(self) -> None:
        """End the fault, and wait until that is said: once, and perhaps before anybody waits for it."""
        before = self.said("recovered")
        self.fault("")
        wait_until(lambda: self.said("recovered") > before)

    def said(self, word: str) -> int:
        return sum(line[0] == word for line in list(self.lines))

    def more(self, word: str, count: int = 1) -> None:
        """Wait until it has said that so many times more."""
        target = self.said(word) + count
        wait_until(lambda: self.said(word) >= target or (self.process and self.process.poll() is not None))
        assert self.said(word) >= target

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.reader is not None
        self.reader.join(60)  # all that it has said is in `lines`
        assert not self.reader.is_alive()

    def acknowledged(self) -> dict[int, int]:
        kept = [line for line in list(self.lines) if line[0] in ("kept", "urgent")]
        found = {int(line[1]): int(line[2]) for line in kept}
        assert len(found) == len(kept)  # no index twice
        return found


@pytest.fixture
def faulty(shim: Path, tmp_path: Path) -> Iterator[Faulty]:
    process = Faulty(shim, tmp_path)
    yield process
    if process.process is not None and process.process.poll() is None:
        process.process.kill()
        process.process.wait()


def check(faulty: Faulty) -> None:
    """Everything acknowledged is there, before and after the next opening."""
    said = faulty.acknowledged()
    report = verifier.verify_log(faulty.root, VKEY)
    assert report.problems == []
    assert report.entries > max(said)
    with Ledger.open(faulty.root, origin=ORIGIN, signer=SIGNER) as ledger:
        entries = list(ledger.entries(0, ledger.size))
        for index, number in said.items():
            assert entries[index]["details"]["number"] == number
        ledger.flush()
    assert verifier.verify_log(faulty.root, VKEY).problems == []


FAULTS = {
    "a journal that cannot be synced": (f"fdatasync {errno.EIO}", "Input/output", False),
    "a tree that cannot be synced": (f"fsync {errno.EIO}", "Input/output", False),
    "a write that fails": (f"pwrite {errno.EIO}", "Input/output", False),
    "a write that stops in the middle": (f"pwrite {errno.ENOSPC} SHORT", "No space", False),
    "a full disk": (
        f"open {errno.ENOSPC}\nfallocate {errno.ENOSPC}\nrename {errno.ENOSPC}",
        "No space",
        True,
    ),
    "a quota": (f"fallocate {errno.EDQUOT}\nopen {errno.EDQUOT}", "quota", True),
    "a disk that became read-only": (
        f"pwrite {errno.EROFS}\nopen {errno.EROFS}\nrename {errno.EROFS}\nfsync {errno.EROFS}"
        f"\nfdatasync {errno.EROFS}",
        "Read-only",
        False,
    ),
    "a rename that fails": (f"rename {errno.EIO}", "Input/output", True),
}
"""The calls that fail, what the ledger says of it, and whether its reserved space can be written meanwhile."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_refuses_says_so_and_costs_nothing(name: str, faulty: Faulty) -> None:
    fault, words, reserved = FAULTS[name]
    faulty.start()
    faulty.more("kept", 30)
    for _ in range(2):
        faulty.fault(fault)
        faulty.more("refused")
        if reserved:
            faulty.more("urgent")
        faulty.mend()
        faulty.more("kept", 30)
    assert any(words in " ".join(line) for line in faulty.lines if line[0] == "refused")
    faulty.fault(fault)
    faulty.more("refused")
    faulty.kill()  # in the middle of it
    faulty.fault("")
    check(faulty)


def test_what_takes_away_goes_ahead_while_the_disk_is_full(faulty: Faulty) -> None:
    fault, _, _ = FAULTS["a full disk"]
    faulty.start()
    faulty.more("kept", 10)
    faulty.fault(fault)
    faulty.more("urgent", 3)
    order = [line[0] for line in faulty.lines]
    assert "kept" not in order[order.index("urgent") :]
    faulty.fault("")
    faulty.more("kept", 3)
    faulty.kill()
    said = [int(line[1]) for line in faulty.lines if line[0] in ("kept", "urgent")]
    assert said == sorted(said)  # entered first: what came later stands behind it
    check(faulty)


def test_a_second_process_is_refused_while_the_first_one_writes(faulty: Faulty) -> None:
    faulty.start()
    faulty.more("kept", 5)
    with pytest.raises(Conflict, match="writes this ledger"):
        Ledger.open(faulty.root, origin=ORIGIN, signer=SIGNER)
    faulty.more("kept", 5)
    faulty.kill()
    check(faulty)  # the lock died with its process


def test_a_folder_that_cannot_be_written_at_all_says_so(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "disk" / "log", origin=ORIGIN, signer=SIGNER) as ledger:
        ledger.append(sample(0))
    command = ["mount", "--bind", "-o", "ro", str(tmp_path / "disk"), str(tmp_path / "disk")]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a read-only file system can only be mounted by root")
    try:
        with pytest.raises(LedgerUnavailable, match="Read-only file system") as raised:
            Ledger.open(tmp_path / "disk" / "log", origin=ORIGIN, signer=SIGNER)
        assert raised.value.remedy
        assert verifier.verify_log(tmp_path / "disk" / "log", VKEY).problems == []
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


@pytest.mark.soak
def test_a_hundred_faults_and_kills_lose_nothing(faulty: Faulty) -> None:
    import random

    rng = random.Random(11)
    kills = 0
    for _ in range(100):
        faulty.start()
        faulty.more("kept", rng.randrange(1, 60))
        if rng.random() < 0.7:
            faulty.fault(FAULTS[rng.choice(list(FAULTS))][0])
            if rng.random() < 0.7:
                faulty.more("refused")
            if rng.random() < 0.5:
                faulty.fault("")
                faulty.more("kept", 2)
        time.sleep(rng.uniform(0, 0.02))
        faulty.kill()
        faulty.fault("")
        kills += 1
        if kills % 20 == 0:
            check(faulty)
    check(faulty)
    print(f"\nsoak: kills={kills} acknowledged={len(faulty.acknowledged())} refused={faulty.said('refused')}")
