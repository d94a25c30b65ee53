"""A random walk through everything that can happen to a ledger, against a list that says what must be in it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_samples import ORIGIN, sample

from cloister import verifier
from cloister.errors import LedgerUnavailable
from cloister.ledger import Ledger, Settings
from cloister.ledger.note import VerifierKey

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = str(VerifierKey.of(ORIGIN, SIGNER))
SMALL = Settings(journal_bytes=1 << 13, emergency_bytes=1 << 13, sign_after_s=0.0005, retry_s=0.001)


class Walk:
    """`said` is what was acknowledged, in order; after a crash, refused entries may only follow all of it."""

    def __init__(self, root: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.rng = root, rng
        self.ledger = self.open(root)
        self.said: list[bytes] = []
        self.number = 0
        self.heads: list[bytes] = []
        self.fault: dict[str, int] = {}
        self.disk = threading.RLock()
        """Held while the disk is copied, so that the copy is of one moment, as a crash leaves it."""
        for name in ("fdatasync", "fsync", "pwrite", "replace", "unlink", "posix_fallocate"):
            monkeypatch.setattr(os, name, self.faulty(name, getattr(os, name)))

    def faulty(self, name: str, real: object) -> object:
        def call(*arguments: object, **named: object) -> object:
            if code := self.fault.get(name):
                raise OSError(code, os.strerror(code))
            with self.disk:
                return real(*arguments, **named)  # type: ignore[operator]

        return call

    def open(self, root: Path) -> Ledger:
        return Ledger.open(root, origin=ORIGIN, signer=SIGNER, settings=SMALL)

    def append(self) -> None:
        entries = [
            sample(self.number + n, pad=self.rng.randrange(900)) for n in range(self.rng.randrange(1, 40))
        ]
        self.number += len(entries)
        urgent = self.rng.random() < 0.2
        futures = [(entry, self.ledger.submit(entry, urgent=urgent)) for entry in entries]
        for entry, future in futures:
            try:
                index = future.result(timeout=60)
            except LedgerUnavailable:
                assert self.ledger.failure or self.fault
                continue
            assert index == len(self.said)
            self.said.append(entry.canonical())

    def flush(self) -> None:
        if self.ledger.failure is None and not self.fault:
            self.ledger.flush()
            self.heads.append((self.ledger.head().signed_note or "").encode())

    def sign_or_not(self) -> None:
        self.ledger.detach_signer()
        self.append()
        self.ledger.attach_signer(SIGNER)

    def fail(self) -> None:
        name = self.rng.choice(["fdatasync", "fsync", "pwrite"])
        self.fault = {name: self.rng.choice([errno.EIO, errno.ENOSPC])}
        self.append()

    def heal(self) -> None:
        self.fault = {}
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

    def reopen(self) -> None:
        self.fault = {}
        self.ledger.close()
        self.ledger = self.open(self.root)
        self.accept()

    def crash(self) -> None:
        """Go on with a copy of what is on the disk now; the old one never closes it."""
        copy = self.root.with_name(f"{self.root.name}x")
        with self.disk:
            shutil.copytree(self.root, copy)
        self.fault = {}
        self.ledger.close()
        self.root = copy
        report = verifier.verify_log(copy, VKEY)
        assert report.problems == []
        self.ledger = self.open(copy)
        self.accept()

    def accept(self) -> None:
        """All that was acknowledged is there, in its place; what follows was refused or cut off."""
        found = list(self.ledger.raw_entries(0, self.ledger.size))
        assert found[: len(self.said)] == self.said
        self.said = found

    def check(self) -> None:
        assert list(self.ledger.raw_entries(0, self.ledger.size)) == self.said
        report = verifier.verify_log(self.root, VKEY)
        assert report.problems == []
        assert report.entries >= len(self.said)


@pytest.mark.parametrize("seed", range(int(os.environ.get("CLOISTER_LEDGER_WALKS", "3"))))
def test_a_random_walk_loses_and_invents_nothing(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    walk = Walk(tmp_path / "log", rng, monkeypatch)
    steps = [
        walk.append,
        walk.append,
        walk.flush,
        walk.sign_or_not,
        walk.fail,
        walk.heal,
        walk.reopen,
        walk.crash,
    ]
    try:
        for _ in range(40):
            step = rng.choice(steps)
            if step == walk.sign_or_not and (walk.fault or walk.ledger.failure):
                continue
            step()
            if not walk.fault:
                walk.check()
        walk.heal()
        walk.flush()
        walk.check()
        for head in walk.heads:
            assert verifier.verify_log(walk.root, VKEY, since=head).problems == []
    finally:
        walk.fault = {}
        walk.ledger.close()
