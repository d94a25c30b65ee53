"""A run that was cut off and resumed, however often, ends with the numbers of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from cloister.api import LoraConfig
from cloister.errors import Interrupted
from cloister.training.checkpoint import CheckpointStore


def store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, object_id="ad-0123456789ab", kind="adapter", key=bytes(32))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_stopped_at_random_steps(tmp_path: Path, dropout: float) -> None:
    settings = tiny.config(lora=LoraConfig(rank=4, alpha=8, dropout=dropout), eval_every=5)
    whole = tiny.fine_tune(settings, made=tiny.adapted(lora=settings.lora))
    draw = random.Random(3)
    for attempt in range(50):
        asked = iter(range(draw.randint(1, 9)))
        try:
            outcome = tiny.fine_tune(
                settings,
                made=tiny.adapted(seed=0, lora=settings.lora),
                checkpoints=store(tmp_path / "c"),
                resume=attempt > 0,
                should_stop=lambda asked=asked: next(asked, None) is None,
            )
            break
        except Interrupted:
            continue
    assert attempt >= 2
    assert outcome.losses == whole.losses
    assert outcome.holdout_losses == whole.holdout_losses
    assert outcome.best_step == whole.best_step
    assert tiny.same_adapter(outcome.last, whole.last)
    assert tiny.same_adapter(outcome.best, whole.best)


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny, torch
from cloister.training.checkpoint import CheckpointStore
torch.set_num_threads(1)
store = CheckpointStore(Path(sys.argv[2]), object_id="ad-0123456789ab", kind="adapter", key=bytes(32))
print("ready", flush=True)
outcome = tiny.fine_tune(
    tiny.config(epochs=6, checkpoint_every=2, micro_batch_size=1), checkpoints=store, resume=True
)
print(json.dumps([outcome.losses, outcome.holdout_losses, outcome.best_step]), flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(Path(tiny.__file__).parent), str(folder)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    with start(tmp_path / "whole") as process:
        wanted = process.communicate()[0].splitlines()[1]
    draw = random.Random(11)
    killed = 0
    for _ in range(3):
        with start(tmp_path / "cut") as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.uniform(0.2, 1.0))
            os.kill(process.pid, signal.SIGKILL)
            lines = process.stdout.read().splitlines()
        if lines:
            break
        killed += 1
    else:
        with start(tmp_path / "cut") as process:
            lines = process.communicate()[0].splitlines()[1:]
    assert killed >= 1
    assert lines[0] == wanted
