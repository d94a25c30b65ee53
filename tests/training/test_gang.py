"""Several processes of one run, over gloo: they begin alike, stay alike or say so, and none waits for what is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

import tiny
from cloister.errors import JobFailed
from cloister.training.passes import Passes
from cloister.training.ranks import Gang, Ranks, device_of, require_alike
from cloister.worker import ranks as worker_ranks

MEMBER = Path(__file__).parent / "gang_member.py"


def together(scene: str, folder: Path) -> list[Any]:
    """What both processes of the scene found, by rank."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(tests)}
    members = [
        subprocess.Popen(
            [sys.executable, str(MEMBER), scene, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for rank in range(2)
    ]
    found = []
    try:
        for member in members:
            said, error = member.communicate(timeout=300)
            assert member.returncode == 0, error
            found.append(json.loads(said.splitlines()[-1]))
    finally:
        for member in members:
            member.kill()
            member.wait()
    return found


def test_the_first_ones_numbers_are_everybodys(tmp_path: Path) -> None:
    assert together("shared", tmp_path) == [[0.0] * 3, [0.0] * 3]
    (tmp_path / "rounded").mkdir()
    assert together("rounded", tmp_path / "rounded") == ["alike", "alike"]


@pytest.mark.slow
def test_processes_that_drew_other_adapters_train_the_first_ones(tmp_path: Path) -> None:
    one, other = together("begun_otherwise", tmp_path)
    alone = tiny.fine_tune(
        tiny.config(micro_batch_size=4, eval_every=3, learning_rate=1e-2), made=tiny.adapted(seed=0)
    )
    assert max(abs(a - b) for a, b in zip(one["losses"], alone.losses, strict=True)) < 1e-4
    assert one == other


@pytest.mark.slow
def test_processes_that_come_to_hold_different_adapters_say_so_and_keep_nothing_of_it(tmp_path: Path) -> None:
    one, other = together("drifted", tmp_path)
    assert one == other and "no longer hold the same adapter" in one["said"]
    assert one["kept"] == [3], "the checkpoint from before"


@pytest.mark.slow
def test_a_process_that_finds_no_checkpoint_leaves_nobody_waiting(tmp_path: Path) -> None:
    assert together("missing", tmp_path) == ["The processes of this run do not read the same checkpoint."] * 2


def test_alone_everything_is_alike() -> None:
    require_alike([torch.ones(3)], Ranks())


def test_each_process_has_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(device_of(rank, 2, "nccl")) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert str(device_of(1, 2, "gloo")) == "cpu"
    with pytest.raises(JobFailed, match="3 processes need a GPU each, and the job has 2"):
        device_of(0, 3, "nccl")


def test_it_is_chosen_before_anything_is_said_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL refuses two processes on one GPU, and takes the current one where it is told none."""
    monkeypatch.setattr(os, "environ", {**os.environ})  # what it sets there is for no other test
    done: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(str(device)))
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, **more: done.append((backend, str(more["device_id"]), more["rank"])),
    )
    Gang(1, 2, tmp_path / "meeting", "nccl")
    assert done == ["cuda:1", ("nccl", "cuda:1", 1)]
    assert os.environ["NCCL_SOCKET_IFNAME"] == "lo" and os.environ["NCCL_NVLS_ENABLE"] == "0"


def test_measuring_opens_no_other_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without naming devices torch would make a context on every GPU, in every process."""
    forked: list[Any] = []
    fork, inside = torch.random.fork_rng, Passes.holdout_loss

    def watched(*given: Any, **more: Any) -> Any:
        forked.append(more.get("devices"))
        return fork(*given, **more)

    def measuring(self: Passes, rows: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.random, "fork_rng", watched)
            return inside(self, rows)

    monkeypatch.setattr(Passes, "holdout_loss", measuring)
    tiny.fine_tune()
    assert forked and all(devices == [] for devices in forked)


def test_one_that_never_begins_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_ranks, "READY_S", 0.2)
    sleeper = subprocess.Popen(["sleep", "600"], stdout=subprocess.PIPE)
    try:
        with pytest.raises(JobFailed, match="Not all 2 processes"):
            worker_ranks._wait_for([sleeper], tmp_path)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.communicate()
