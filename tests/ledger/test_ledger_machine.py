"""A state machine of everything that can happen to a ledger and its readers, on a disk that forgets.

The model is a list: what was acknowledged, in order. Whatever fails, is killed or loses its power, that list
is what the ledger begins with, what the verifier accepts, and what a reader of the files sees.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forgetful_disk import ForgetfulDisk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from ledger_samples import ORIGIN, sample

from cloister import verifier
from cloister.errors import LedgerUnavailable, NotFound
from cloister.ledger import Ledger, Settings
from cloister.ledger.index import Index
from cloister.ledger.note import VerifierKey
from cloister.ledger.query import Query, search
from cloister.ledger.reading import CheckedReader, LogFiles

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = str(VerifierKey.of(ORIGIN, SIGNER))
SMALL = Settings(journal_bytes=1 << 13, emergency_bytes=1 << 13, sign_after_s=0.0005, retry_s=0.001)
STEPS: Counter[str] = Counter()
FAULTS = st.tuples(
    st.sampled_from(["fdatasync", "fsync", "pwrite", "replace", "posix_fallocate"]),
    st.sampled_from([errno.EIO, errno.ENOSPC, errno.EROFS]),
)


class LedgerMachine(RuleBasedStateMachine):
    """`said` is what was acknowledged; after a restart it is what the ledger holds, which begins with that."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="lm")
        self.place = Path(self.folder.name)
        self.lives = 0
        self.patches: pytest.MonkeyPatch | None = None
        self.said: list[bytes] = []
        self.number = 0
        self.heads: list[bytes] = []
        self.root = self.place / "0"
        self.live()

    # --- living and dying ------------------------------------------------------------------------

    def live(self) -> None:
        self.patches = pytest.MonkeyPatch()
        self.root.parent.mkdir(exist_ok=True)
        self.disk = ForgetfulDisk(self.root, self.patches)
        self.ledger = self.open()
        self.accept()

    def open(self) -> Ledger:
        return Ledger.open(self.root, origin=ORIGIN, signer=SIGNER, settings=SMALL)

    def accept(self) -> None:
        """All that was acknowledged is there; what follows was refused or cut off, and counts from now on."""
        found = list(self.ledger.raw_entries(0, self.ledger.size))
        assert found[: len(self.said)] == self.said
        self.said = found

    def kill(self) -> None:
        """End the process: nothing that it still does reaches a file."""
        with self.disk.lock:
            self.disk.dead = True
        with contextlib.suppress(OSError):
            self.ledger.close()
        self.disk.dead = False
        self.disk.fault = {}

    def next_disk(self, rng: random.Random | None) -> None:
        """Power fails; the machine comes back with what is on the disk."""
        self.kill()
        self.lives += 1
        target = self.place / str(self.lives)
        self.disk.lose_power(target, rng)
        assert self.patches is not None
        self.patches.undo()
        self.disk.close()
        self.root = target
        report = verifier.verify_log(target, VKEY)
        assert report.problems == []
        assert report.entries >= len(self.said)
        for path in [target, *target.rglob("*")]:  # what came back from the disk is on it
            descriptor = os.open(path, os.O_RDONLY)
            os.close(descriptor)
        self.patches = pytest.MonkeyPatch()
        self.disk = ForgetfulDisk(self.root, self.patches)
        self.sync_everything()
        self.ledger = self.open()
        self.accept()

    def sync_everything(self) -> None:
        for path in [self.root, *self.root.rglob("*")]:
            descriptor = os.open(path, os.O_RDONLY)
            with self.disk.lock:
                if path.is_file():
                    self.disk._data[path.stat().st_ino] = bytearray(path.read_bytes())
                else:
                    os.fsync(descriptor)
            os.close(descriptor)

    # --- steps -------------------------------------------------------------------------------------

    def step(self, name: str) -> None:
        STEPS[name] += 1

    @rule(count=st.integers(1, 40), pad=st.integers(0, 900), urgent=st.booleans())
    def append(self, count: int, pad: int, urgent: bool) -> None:
        self.step("append")
        entries = [sample(self.number + n, pad=pad) for n in range(count)]
        self.number += count
        for entry, future in [(one, self.ledger.submit(one, urgent=urgent)) for one in entries]:
            try:
                index = future.result(timeout=60)
            except LedgerUnavailable:
                assert self.ledger.failure or self.disk.fault
                continue
            assert index == len(self.said)
            self.said.append(entry.canonical())

    @rule()
    def flush(self) -> None:
        if self.disk.fault or self.ledger.failure is not None:
            return
        self.step("flush")
        self.ledger.flush()
        self.heads.append((self.ledger.head().signed_note or "").encode())

    @rule(count=st.integers(1, 300))
    def append_unsigned(self, count: int) -> None:
        if self.disk.fault or self.ledger.failure is not None:
            return
        self.step("append_unsigned")
        self.ledger.detach_signer()
        self.append(count, 0, False)
        self.ledger.attach_signer(SIGNER)

    @rule(fault=FAULTS)
    def break_disk(self, fault: tuple[str, int]) -> None:
        self.step("break_disk")
        with self.disk.lock:
            self.disk.fault = {fault[0]: fault[1]}

    @rule()
    def mend(self) -> None:
        self.step("mend")
        with self.disk.lock:
            self.disk.fault = {}
        for _ in range(3):  # a write that was under way when the fault ended may still fail the ledger
            try:
                self.ledger.recover()
                index = self.ledger.append(sample(self.number))
                break
            except LedgerUnavailable:
                continue
        assert index == len(self.said)
        self.said.append(sample(self.number).canonical())
        self.number += 1

    @rule()
    def close_and_open(self) -> None:
        self.step("close_and_open")
        self.disk.fault = {}
        self.ledger.close()
        self.ledger = self.open()
        self.accept()

    @rule()
    def kill_and_open(self) -> None:
        """The next process reads the system's cache, which holds what was never written."""
        self.step("kill_and_open")
        self.kill()
        self.ledger = self.open()
        self.accept()

    @rule(seed=st.one_of(st.none(), st.integers(0, 1 << 16)))
    def lose_power(self, seed: int | None) -> None:
        self.step("lose_power")
        self.next_disk(None if seed is None else random.Random(seed))

    @rule(seed=st.integers(0, 1 << 16))
    def kill_open_and_lose_power(self, seed: int) -> None:
        """What a new process took over from the cache must be on the disk before it lets go of the rest."""
        self.step("kill_open_and_lose_power")
        self.kill()
        self.ledger = self.open()
        self.accept()
        self.next_disk(random.Random(seed) if seed % 3 else None)

    # --- readers -------------------------------------------------------------------------------------

    @rule(actor=st.sampled_from(["uid:1000", "nobody"]), limit=st.integers(1, 50))
    def read_from_outside(self, actor: str, limit: int) -> None:
        self.step("read_from_outside")
        try:
            snapshot = LogFiles(self.root, ORIGIN).snapshot()
        except NotFound:
            return
        reader = CheckedReader(snapshot)
        assert list(reader.entries(0, snapshot.size)) == self.said[: snapshot.size]
        index = Index(self.place / "index.db", ORIGIN)
        index.catch_up(reader)
        answer = search(reader, index, Query(actor=actor), limit)
        index.close()
        expected = snapshot.size if actor == "uid:1000" else 0
        assert [m.index for m in answer.matches] == list(range(max(0, expected - limit), expected))

    @invariant()
    def holds_what_was_said(self) -> None:
        assert list(self.ledger.raw_entries(0, self.ledger.size)) == self.said
        if not self.disk.fault:
            with self.disk.lock:
                report = verifier.verify_log(self.root, VKEY)
            assert report.problems == []
            assert report.entries >= len(self.said)

    def teardown(self) -> None:
        try:
            self.mend()
            self.ledger.flush()
            self.holds_what_was_said()
            for head in self.heads:
                assert verifier.verify_log(self.root, VKEY, since=head).problems == []
        finally:
            self.disk.fault = {}
            self.ledger.close()
            if self.patches is not None:
                self.patches.undo()
            self.disk.close()
            self.folder.cleanup()


def drive(examples: int, steps: int, *, derandomize: bool) -> int:
    STEPS.clear()
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    total = sum(STEPS.values())
    print(f"\nsoak: steps={total} " + " ".join(f"{name}={count}" for name, count in sorted(STEPS.items())))
    return total


def test_a_ledger_on_a_disk_that_forgets_keeps_what_it_said() -> None:
    assert drive(10, 30, derandomize=True) >= 100


@pytest.mark.soak
def test_two_thousand_steps_lose_nothing() -> None:
    total = 0
    while total < 2000:
        total += drive(50, 50, derandomize=False)
    print(f"soak: ledger_steps={total}")


@pytest.mark.parametrize("unsynced", ["log", "log/tile", "log/tile/0", "log/tile/entries", "log/journal"])
def test_names_that_a_process_failed_to_sync_are_synced_by_the_next(unsynced: str, tmp_path: Path) -> None:
    """They are in the system's cache, so the next process finds them there and could take them for durable."""
    patches = pytest.MonkeyPatch()
    root = tmp_path / "log"
    disk = ForgetfulDisk(root, patches)

    def end(ledger: Ledger) -> None:
        with disk.lock:
            disk.dead = True
        ledger.close()
        disk.dead, disk.fault = False, {}

    try:
        ledger = Ledger.open(root, origin=ORIGIN, signer=None, settings=SMALL)
        said = [ledger.append(sample(number)) for number in range(300)]
        disk.fault, disk.fault_at = {"fsync": errno.EIO}, unsynced
        with contextlib.suppress(LedgerUnavailable):
            ledger.attach_signer(SIGNER)
            ledger.flush()
        end(ledger)
        ledger = Ledger.open(root, origin=ORIGIN, signer=SIGNER, settings=SMALL)
        ledger.flush()
        said += [ledger.append(sample(number)) for number in range(300, 400)]  # the old journal is dropped
        ledger.flush()
        end(ledger)
        disk.lose_power(tmp_path / "after", None)
    finally:
        patches.undo()
        disk.close()
    assert said == list(range(400))
    report = verifier.verify_log(tmp_path / "after", VKEY)
    assert (report.problems, report.entries) == ([], 400)
