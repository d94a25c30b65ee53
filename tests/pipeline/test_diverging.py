"""A run at a rate that tears it apart, on the demo's base in its sandbox: failed, with what was good of it kept."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.cli_shell import Shell
from tests.conftest import Appliance, import_base, import_rows

from cloister.demo.claims import generate
from cloister.evaluation.verdict import HEADLINES

pytestmark = pytest.mark.slow

WILD = [
    *("--learning-rate", "1", "--batch-size", "4", "--micro-batch-size", "4", "--max-length", "320"),
    *("--epochs", "20", "--rank", "8", "--alpha", "64"),
    *("--set", "lr_scheduler=constant", "--set", "warmup_ratio=0.99", "--set", "max_steps=300"),
    *("--set", "eval_every=2", "--set", "max_grad_norm=1000000"),
]
"""It warms up to a rate of 1 over 300 steps: the first ones are at a good rate."""


@pytest.fixture(scope="module")
def shell(appliance: Appliance) -> Shell:
    rows: list[dict[str, Any]] = list(islice(generate(120, seed=7, canary="none"), 120))
    import_rows(appliance.client, "claims", rows)
    import_base(appliance.client)
    return Shell(appliance.home.root)


@pytest.fixture(scope="module")
def watched(shell: Shell) -> str:
    """What was said while it ran."""
    return shell(
        "run", "start", "-d", "claims", "-b", "small", "-n", "wild", *WILD, "--watch", code=11
    ).stderr


def test_who_waits_for_it_is_told_and_the_command_fails(watched: str) -> None:
    assert "What is kept is the adapter of step" in watched
    assert "cloister evaluate wild" in watched and "Lower the learning rate" in watched


def test_every_place_that_shows_it_says_so(watched: str, shell: Shell, tmp_path: Path) -> None:
    run = shell.json("run", "show", "wild")
    result = run["train_job"]["result"]
    assert run["train_job"]["state"] == "failed" and run["adapter"] and run["evaluate_job"] is None
    assert 0 < result["best_step"] <= result["steps"] - 20 and result["holdout_loss"] < 2
    said = shell("run", "show", "wild")
    assert "What is kept is the adapter of step" in said.stderr and run["adapter"] in said.stdout
    assert "train failed" in shell("run", "list").stdout
    again = shell("run", "resume", "wild", code=4).stderr
    assert "would again" in again
    shell("run", "retry", "wild", code=4)
    shell("run", "curve", "wild", "--mlflow", str(tmp_path))
    (meta,) = [path for path in tmp_path.rglob("meta.yaml") if path.parent.parent.parent == tmp_path]
    assert yaml.safe_load(meta.read_text())["status"] == 4, "FAILED"


def test_what_is_kept_is_worth_something_and_stays_of_a_run_that_failed(watched: str, shell: Shell) -> None:
    asked = ("--rows", "4", "--few-shot", "0", "--retrieve", "0", "--repeat", "0", "--no-general")
    said = shell("evaluate", "wild", *asked)
    assert "! wild went wrong" in said.stderr and "note: Of a run that went wrong" in said.stdout
    assert any(headline in said.stdout.splitlines() for headline in HEADLINES.values())
    evaluation = shell.json("run", "show", "wild")["evaluation"]
    assert evaluation["tuned"]["loss"] < evaluation["base"]["loss"] - 1
    assert "train failed" in shell("run", "list").stdout, "not the evaluation, which is done"
    assert "! wild went wrong" in shell("run", "compare", "wild", "wild").stderr
    entries = shell.json("audit", "search", "--action", "job.failed")
    assert "diverged" in str(entries)
