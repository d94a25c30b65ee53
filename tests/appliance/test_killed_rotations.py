"""Kills of the authority while it rotates objects and KEKs: what is acknowledged is there, and both books are whole."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest
from tests.conftest import LOOPBACK, PASSPHRASE, Appliance, import_rows

from cloister import embedded
from cloister.api import FINAL_STATES
from cloister.errors import CloisterError
from cloister.vault import ObjectReader, ObjectStore, Vault
from cloister.verifier import verify_log

ROWS: list[dict[str, object]] = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n} " * 200}]}
    for n in range(2_000)
]


def content(appliance: Appliance) -> bytes:
    """The dataset's rows as its newest version has them, opened by another view of the key store."""
    stored = appliance.client.dataset("letters")
    folder = ObjectStore(appliance.home.objects).folder("dataset", stored.object_id, stored.version)
    vault = Vault.open(appliance.home.keys)
    try:
        vault.unlock(PASSPHRASE.encode())
        key = vault.data_key(stored.object_id, stored.version)
    finally:
        vault.close()
    with ObjectReader(folder, key=key, manifest_sha256=stored.manifest_sha256) as reader:
        reader.check()
        return reader.read("rows.bin")


def killed(appliance: Appliance, order: random.Random, *, kek: bool) -> bool:
    """Kills the authority at a random moment of a rotation; whether the object's version changed."""
    client = appliance.client
    before = client.dataset("letters").version

    def ask() -> None:
        with suppress(CloisterError, Exception):
            if kek:
                client.rotate_kek()
            else:
                client.rotate_object("letters")

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(order.uniform(0.0, 0.1 if kek else 2.5))
    pid = embedded.listener_pid(appliance.home.authority_socket)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    embedded.await_end(pid)
    asking.join()
    embedded.start(appliance.home, gateway=False, listen=LOOPBACK)
    client.unlock(PASSPHRASE)
    end = time.monotonic() + 120
    while any(job.state not in FINAL_STATES for job in client.jobs()):
        assert time.monotonic() < end
        time.sleep(0.05)
    *lines, result = client.check_vault()
    assert result.problems == 0, [(line.where, line.problem) for line in lines]
    client.flush_ledger()
    ledger = appliance.home.control_ledger
    assert not verify_log(ledger, (ledger / "vkey").read_text().strip()).problems
    return client.dataset("letters").version != before


def run_kills(appliance: Appliance, count: int, seed: int) -> int:
    order = random.Random(seed)
    with suppress(CloisterError):
        import_rows(appliance.client, "letters", ROWS)
    expected = content(appliance)
    changed = 0
    for turn in range(count):
        changed += killed(appliance, order, kek=turn % 3 == 2)
        assert content(appliance) == expected
    appliance.client.finished_job(appliance.client.rotate_object("letters").job_id)
    assert content(appliance) == expected
    return changed


@pytest.mark.slow
def test_killed_rotations_leave_one_whole_version(appliance: Appliance) -> None:
    run_kills(appliance, 4, seed=2)


@pytest.mark.soak
def test_soak_killed_rotations_leave_one_whole_version(appliance: Appliance) -> None:
    print(f"soak: kills=60 completed={run_kills(appliance, 60, seed=5)}")
