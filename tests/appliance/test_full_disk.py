"""A disk that is full: nothing new starts, what takes away still works, and all is entered afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority_world import World, world
from tests.conftest import PASSPHRASE, Appliance, start_appliance

from cloister import embedded
from cloister.api import ClientRequest, LockRequest
from cloister.appliance.alerts import Alerts
from cloister.appliance.finding import Finding
from cloister.errors import CloisterError, LedgerUnavailable, OutOfSpace
from cloister.home import Home
from cloister.verifier import verify_log


@pytest.fixture
def small_disk() -> Iterator[Path]:
    disk = Path(tempfile.mkdtemp(prefix="disk"))  # short: sockets lie below it
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        disk.rmdir()
        pytest.skip(f"a file system of its own cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


@pytest.fixture
def on_a_small_disk(small_disk: Path) -> Iterator[Appliance]:
    try:
        appliance = start_appliance(small_disk / "home", gateway=False)
        yield appliance
        appliance.client.close()
    finally:
        embedded.stop(Home(small_disk / "home"))


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
    end = time.monotonic() + 120
    while client.status().ledger.failure is not None:
        assert time.monotonic() < end
        time.sleep(0.1)
    client.issue_client(ClientRequest(name="afterwards"))
    actions = []
    while batch := client.entries(len(actions), 1000):
        actions += [entry.action for entry in batch]
    last = [action for action in actions if not action.startswith("alert.")][-1]  # the disk's comes, and goes
    assert last == "client.issue"
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


def test_an_alert_that_cannot_be_kept_is_told_once(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised and cleared, each twice, while the state takes nothing; kept once it does."""
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    out, hook = tmp_path / "hooked", tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat >> {out}\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    finding = Finding("swap", "critical", "swap is on", "all", "swapoff -a")
    found: list[Finding] = []

    async def look() -> list[Finding]:
        return found

    async def inside(here: World) -> None:
        alerts = Alerts(here.authority.state, here.authority.recorder, look, str(hook))

        async def looks(findings: list[Finding], *told: str) -> None:
            found[:] = findings
            for _ in range(3):
                await alerts.refresh()
            while alerts._telling:
                await asyncio.sleep(0.01)
            said = out.read_text().splitlines() if out.exists() else []
            assert [json.loads(line)["alert"] for line in said] == list(told)

        filler = exhaust(here)
        await looks([finding], "raised")
        assert alerts.listed() == []
        await looks([], "raised", "cleared")
        await looks([finding], "raised", "cleared", "raised")
        assert alerts.listed() == []
        filler.unlink()
        await looks([finding], "raised", "cleared", "raised")
        assert [alert.key for alert in alerts.listed()] == ["swap"]
        filler = exhaust(here)
        await looks([], "raised", "cleared", "raised", "cleared")
        assert [alert.key for alert in alerts.listed()] == ["swap"]  # nobody could take it away
        await looks([finding], "raised", "cleared", "raised", "cleared", "raised")
        await looks([], *("raised", "cleared") * 3)
        filler.unlink()
        await looks([], *("raised", "cleared") * 3)
        assert alerts.listed() == []
        entered = [action for action in here.entered() if action.startswith("alert.")]
        assert entered.count("alert.raised") <= 3 and entered.count("alert.cleared") <= 3

    async def outside() -> None:
        async with world() as here:
            await inside(here)

    asyncio.run(outside())


def exhaust(here: World) -> Path:
    """Fill the disk, and what room the database still has in its own files."""
    filler = fill(here.home.root)
    with pytest.raises(OutOfSpace):
        for _ in range(10_000):
            with here.authority.state.change() as change:
                change.event("test.filler", None, text="x" * 2000)
    return filler
