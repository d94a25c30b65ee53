"""The invariants as an operator meets them: runs typed into the command line, in sandboxes, over sealed data."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.cli_shell import Shell
from tests.conftest import start_appliance

import tiny
from cloister import embedded

pytestmark = pytest.mark.soak

TRAIN: dict[str, Any] = {
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "epochs": 6,
    "batch_size": 8,
    "micro_batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 128,
    "packing": "off",
}


class Runs:
    """Runs by their settings, on one dataset and one tiny base."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.shell, self.folder = shell, folder

    def file(self, **changes: Any) -> str:
        path = self.folder / "train.yaml"
        path.write_text(yaml.safe_dump(TRAIN | changes))
        return str(path)

    def start(self, name: str, *options: str, code: int = 0, **changes: Any) -> Any:
        told = ("--dataset", "rows", "--base", "tiny", "--name", name, "--config", self.file(**changes))
        return self.shell("run", "start", *told, *options, code=code)

    def ended(self, name: str, **changes: Any) -> dict[str, Any]:
        self.start(name, "--evaluate", "none", "--watch", **changes)
        found: dict[str, Any] = self.shell.json("run", "show", name)["train_job"]["result"]
        return found

    def curve(self, name: str, column: str = "loss") -> list[float]:
        path = self.folder / f"{name}.csv"
        self.shell("run", "curve", name, "--out", str(path))
        with path.open(newline="") as file:
            return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("cli")
    started = start_appliance(folder / "home", gateway=False)
    shell = Shell(folder / "home")
    (folder / "rows.jsonl").write_bytes(tiny.lines(tiny.rows(96)))
    try:
        shell("dataset", "import", str(folder / "rows.jsonl"), "--name", "rows", "--holdout", "0.2")
        shell("base", "import", str(tiny.save_base(folder / "tiny")), "--name", "tiny")
        yield Runs(shell, folder)
    finally:
        started.client.close()
        embedded.stop(started.home)


@pytest.fixture(scope="module")
def whole(runs: Runs) -> dict[str, Any]:
    return runs.ended("whole")


def test_evaluated_equals_not_evaluated(runs: Runs, whole: dict[str, Any]) -> None:
    looked = runs.ended("looked", eval_every=1)
    assert runs.curve("looked") == runs.curve("whole")
    assert looked["train_loss"] == whole["train_loss"]


def test_one_by_eight_equals_eight_by_one(runs: Runs) -> None:
    """In 16 bits the two round differently; a mean of means would be off by tenths."""
    lora = TRAIN["lora"] | {"dropout": 0.0}
    at_once, split = (runs.ended(f"by-{n}", lora=lora, micro_batch_size=n) for n in (8, 1))
    assert split["train_loss"] == pytest.approx(at_once["train_loss"], rel=2e-2)
    assert split["supervised_tokens"] == at_once["supervised_tokens"]


def test_packed_equals_unpacked(runs: Runs) -> None:
    lora = TRAIN["lora"] | {"dropout": 0.0}
    packed, padded = (runs.ended(f"packing-{how}", lora=lora, packing=how) for how in ("on", "off"))
    assert packed["train_loss"] == pytest.approx(padded["train_loss"], rel=2e-2)
    assert packed["tokens"] == padded["tokens"]


def test_resumed_equals_uninterrupted(runs: Runs) -> None:
    whole = runs.ended("long", epochs=20, checkpoint_every=5)
    runs.start("paused", "--evaluate", "none", epochs=20, checkpoint_every=5)
    for _ in range(200):
        job = runs.shell.json("run", "show", "paused")["train_job"]
        progress = job["progress"] or {}
        if progress.get("stage") == "train" and progress["done"] >= 20:
            break
        time.sleep(0.1)
    runs.shell("run", "pause", "paused")
    while runs.shell.json("run", "show", "paused")["train_job"]["state"] == "running":
        time.sleep(0.2)
    runs.shell("run", "resume", "paused", "--watch")
    resumed = runs.shell.json("run", "show", "paused")["train_job"]
    assert resumed["result"]["train_loss"] == whole["train_loss"]
    assert resumed["result"]["holdout_loss"] == whole["holdout_loss"]
    assert runs.curve("paused", "holdout_loss") == runs.curve("long", "holdout_loss")


def test_nothing_is_truncated_silently(runs: Runs) -> None:
    refused = runs.start("short", "--evaluate", "none", "--watch", code=2, max_length=32)
    assert "rows cannot be used" in refused.stderr and "is longer than 32 tokens" in refused.stderr
    assert not any(word in refused.stderr for word in tiny.WORDS)


def test_saved_adapter_gives_the_evaluated_loss(runs: Runs) -> None:
    runs.start("measured", "--evaluate", "pair", "--watch")
    run = runs.shell.json("run", "show", "measured")
    assert run["evaluation"]["tuned"]["loss"] == pytest.approx(
        run["train_job"]["result"]["holdout_loss"], rel=2e-2
    )
