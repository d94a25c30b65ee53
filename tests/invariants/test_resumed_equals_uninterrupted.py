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
left = int(sys.argv[3])

def stepped(stage, done, total):
    global left
    if stage == "train":
        print(done, flush=True)
        left -= 1
        if left == 0:
            sys.stdin.read()  # no further: it is killed here at the latest

outcome = tiny.fine_tune(
    tiny.config(epochs=6, checkpoint_every=2, micro_batch_size=1), checkpoints=store, resume=True,
    on_progress=stepped,
)
print(json.dumps([outcome.losses, outcome.holdout_losses, outcome.best_step]), flush=True)
"""
STEPS = 36


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    def start(folder: Path, steps: int = STEPS + 2) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(Path(tiny.__file__).parent), str(folder), str(steps)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    with start(tmp_path / "whole") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        begun = time.monotonic()
        *steps, wanted = process.stdout.read().splitlines()
        step_s = (time.monotonic() - begun) / STEPS
    assert [int(step) for step in steps] == list(range(1, STEPS + 1))
    draw = random.Random(11)
    for _ in range(3):
        seen = draw.randint(1, 7)  # and at most three more: it cannot end before it is killed
        with start(tmp_path / "cut", seen + 3) as process:
            assert process.stdout is not None
            for _ in range(seen):
                assert process.stdout.readline()
            time.sleep(draw.uniform(0, 4) * step_s)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    with start(tmp_path / "cut") as process:
        resumed_after, *_, found = process.communicate()[0].splitlines()
    assert 0 < int(resumed_after) < STEPS
    assert found == wanted
