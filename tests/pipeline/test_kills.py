"""kill -9 at random moments: nothing recorded is lost, and a run resumes to the numbers it would have had."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import PASSPHRASE, Appliance, import_base, import_rows, short_run, start_appliance

from cloister import embedded
from cloister.api import FINAL_STATES, JobState, ObjectKind, Run
from cloister.errors import CloisterError
from cloister.verifier import verify_log

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory, claims: list[dict[str, Any]]) -> Iterator[Appliance]:
    appliance = start_appliance(tmp_path_factory.mktemp("killable") / "home", gateway=False)
    import_rows(appliance.client, "claims", claims)
    import_base(appliance.client)
    yield appliance
    appliance.client.close()
    embedded.stop(appliance.home)


@pytest.fixture(scope="module")
def uninterrupted(killable: Appliance) -> dict[str, Any]:
    run = killable.client.start_run(short_run("whole").model_copy(update={"evaluate": None}))
    return killable.client.finished_job(run.train_job.job_id).result


def start(appliance: Appliance, name: str) -> Run:
    return appliance.client.start_run(short_run(name).model_copy(update={"evaluate": None}))


def wait_until_training(appliance: Appliance, job_id: str) -> None:
    end = time.monotonic() + 120
    while True:
        job = appliance.client.job(job_id)
        if job.state in FINAL_STATES or job.metrics.get("step"):
            return
        assert time.monotonic() < end, job
        time.sleep(0.05)


def worker_pids(appliance: Appliance) -> list[int]:
    launcher = embedded.listener_pid(appliance.home.launcher_socket)
    host = os.readlink("/proc/self/ns/net")
    found, parents = [], {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stat:
            parents[int(name)] = int(stat.read().rsplit(")", 1)[1].split()[1])
    for pid in parents:
        above = pid
        while above in parents and above != launcher:
            above = parents[above]
        with contextlib.suppress(OSError):
            if above == launcher and os.readlink(f"/proc/{pid}/ns/net") != host:
                found.append(pid)
    return sorted(found)


def bring_back(appliance: Appliance) -> None:
    embedded.start(appliance.home, gateway=False)
    with contextlib.suppress(CloisterError):
        appliance.client.unlock(PASSPHRASE)


def check_books(appliance: Appliance) -> None:
    """Every object in the state is on disk and in the ledger, and the ledger verifies."""
    appliance.client.flush_ledger()
    folder = appliance.home.control_ledger
    assert not verify_log(folder, (folder / "vkey").read_text().strip()).problems
    entries = []
    while batch := appliance.client.entries(len(entries), 1000):
        entries += batch
    registered = {
        entry.objects[0]: entry.digests["manifest"] for entry in entries if entry.action.endswith(".register")
    }
    client = appliance.client
    for stored in (*client.datasets(), *client.bases(), *client.models()):
        assert registered[stored.object_id] == stored.manifest_sha256
        assert (appliance.home.objects / stored.kind / stored.object_id / "v1" / "manifest.json").exists()
    for job in client.jobs():
        if job.state == JobState.DONE:
            assert job.subject in registered
            assert any(entry.action == "job.done" and job.job_id in entry.objects for entry in entries)


def finish(appliance: Appliance, run: Run) -> dict[str, Any]:
    """Resume as often as it takes, and return what training says at its end."""
    for _ in range(20):
        job = appliance.client.job(run.train_job.job_id)
        if job.state == JobState.INTERRUPTED:
            appliance.client.resume_job(job.job_id)
        elif job.state == JobState.DONE:
            return job.result
        *_, job = appliance.client.watch_job(run.train_job.job_id)
        if job.state == JobState.DONE:
            return job.result
        assert job.state == JobState.INTERRUPTED, job.error
    pytest.fail("the run did not end")


@pytest.mark.parametrize("victim", ["worker", "launcher", "authority"])
def test_a_killed_process_costs_nothing_that_was_recorded(
    killable: Appliance, uninterrupted: dict[str, Any], victim: str, times: int = 1
) -> None:
    generator = random.Random(f"{victim}-{times}")
    for number in range(times):
        run = start(killable, f"killed-{victim}-{number}-{times}")
        wait_until_training(killable, run.train_job.job_id)
        time.sleep(generator.uniform(0, 3))
        if victim == "worker":
            with contextlib.suppress(IndexError, ProcessLookupError):  # the run was quicker
                os.kill(worker_pids(killable)[-1], 9)
        else:
            socket = getattr(killable.home, f"{victim}_socket")
            pid = embedded.listener_pid(socket)
            assert pid is not None
            os.kill(pid, 9)
            embedded.await_end(pid)
            if victim == "launcher":
                states = {p.name: p.state for p in killable.client.status().processes}
                assert states["launcher"] == "stopped"
        bring_back(killable)
        if victim == "authority":
            *_, job = killable.client.watch_job(run.train_job.job_id)
            assert job.attempts == 1, "a restart of the authority interrupts no run"
        result = finish(killable, run)
        for name in ("steps", "train_loss", "holdout_loss", "best_step"):
            assert result[name] == uninterrupted[name], (name, number, run.train_job.job_id, result)
        check_books(killable)


@pytest.mark.soak
def test_two_runs_are_the_same(killable: Appliance, uninterrupted: dict[str, Any]) -> None:
    others = 0
    for number in range(20):
        run = start(killable, f"again-{number}")
        result = killable.client.finished_job(run.train_job.job_id).result
        others += any(result[name] != uninterrupted[name] for name in ("train_loss", "holdout_loss"))
    print(f"soak: runs=20 others={others}")
    assert not others


@pytest.mark.soak
@pytest.mark.parametrize("victim", ["worker", "launcher", "authority"])
def test_ten_kills_each(killable: Appliance, uninterrupted: dict[str, Any], victim: str) -> None:
    test_a_killed_process_costs_nothing_that_was_recorded(killable, uninterrupted, victim, times=10)
    print(f"soak: kills={10}")


def test_kinds_have_folders_of_their_own(killable: Appliance) -> None:
    folders = {path.name for path in killable.home.objects.iterdir() if path.is_dir()}
    assert {ObjectKind.DATASET, ObjectKind.BASE} <= folders
