"""A disk that is full: nothing new starts, what takes away still works, and all is entered afterwards."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import PASSPHRASE, Appliance, start_appliance

from cloister import embedded
from cloister.api import ClientRequest, LockRequest
from cloister.errors import CloisterError, LedgerUnavailable, OutOfSpace
from cloister.home import Home
from cloister.verifier import verify_log


@pytest.fixture
def on_a_small_disk() -> Iterator[Appliance]:
    disk = Path(tempfile.mkdtemp(prefix="disk"))  # short: sockets lie below it
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        disk.rmdir()
        pytest.skip(f"a file system of its own cannot be mounted here: {mounted.stderr.strip()}")
    try:
        appliance = start_appliance(disk / "home", gateway=False)
        yield appliance
        appliance.client.close()
    finally:
        embedded.stop(Home(disk / "home"))
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


def fill(folder: Path) -> Path:
    """Write until nothing more fits."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        for block in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * block)
            except OSError:
                continue
    return path


def test_a_full_disk_refuses_new_work_and_still_takes_away(on_a_small_disk: Appliance) -> None:
    client = on_a_small_disk.client
    client.issue_client(ClientRequest(name="desk"))
    filler = fill(on_a_small_disk.home.root)
    refused: CloisterError | None = None
    for number in range(30_000):
        try:
            client.issue_client(ClientRequest(name=f"c{number}"))
        except CloisterError as error:
            refused = error
            break
    assert isinstance(refused, LedgerUnavailable | OutOfSpace), refused
    assert client.revoke_client("desk").revoked_at is not None
    with pytest.raises((LedgerUnavailable, OutOfSpace)):
        client.issue_client(ClientRequest(name="one-more"))
    filler.unlink()
    for _ in range(100):
        if client.status().ledger.failure is None:
            break
        time.sleep(0.1)
    client.issue_client(ClientRequest(name="afterwards"))
    actions = []
    while batch := client.entries(len(actions), 1000):
        actions += [entry.action for entry in batch]
    assert actions[-1] == "client.issue"
    assert actions.count("client.revoke") == 1
    client.flush_ledger()
    folder = on_a_small_disk.home.control_ledger
    assert not verify_log(folder, (folder / "vkey").read_text().strip()).problems


def test_a_full_disk_still_locks(on_a_small_disk: Appliance) -> None:
    fill(on_a_small_disk.home.root)
    on_a_small_disk.client.lock(LockRequest())
    assert on_a_small_disk.client.status().locked
    os.unlink(on_a_small_disk.home.root / "filler")
    on_a_small_disk.client.unlock(PASSPHRASE)
