"""Merged ≈ adapter, measured: the numbers of the model that is served are those of the adapter that was evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.invariants.trained import trained

import tiny
import worker_jobs
from cloister.api import Grant, MergeConfig
from cloister.worker.verbs import merge
from worker_jobs import Recorder

DEMO_BASE = Path(__file__).parents[2] / "src" / "cloister" / "demo" / "base"


def merged(folder: Path, base: Grant, rows: int, settings: Any, config: MergeConfig) -> dict[str, Any]:
    """What the merge of a short run measured. It refuses, with its figures, what is not close."""
    dataset, adapter, _ = trained(folder, base, rows, settings)
    out = worker_jobs.output(folder, "model", "mm")
    inputs = {"dataset": dataset, "base": base, "adapter": adapter}
    return merge.run(worker_jobs.job("merge", config, out, inputs=inputs), Recorder())


@pytest.mark.parametrize("form", ["plain", "dora"])
def test_merged_is_close_to_the_adapter(tmp_path: Path, form: str) -> None:
    base = worker_jobs.import_base(tmp_path, tiny.save_base(tmp_path / "model"))
    lora = tiny.LoraConfig(rank=4, alpha=16, dora=form == "dora")
    settings = tiny.config(epochs=6, learning_rate=3e-3, lora=lora)  # at 1e-2 chance decides its words
    config = MergeConfig(max_new_tokens=8, min_agreement=0.0, max_loss_gap=100.0)
    values = merged(tmp_path, base, 96, settings, config)
    assert values["loss_merged"] == pytest.approx(values["loss_adapter"], abs=0.05)
    assert values["greedy_agreement"] >= 0.8


@pytest.mark.slow
def test_on_the_demo_s_base_after_a_run_that_changed_it_much(tmp_path: Path) -> None:
    base = worker_jobs.import_base(tmp_path, DEMO_BASE)
    settings = tiny.config(
        epochs=3,
        learning_rate=3e-3,
        batch_size=32,
        micro_batch_size=32,
        lora=tiny.LoraConfig(rank=16, alpha=32),
    )
    values = merged(tmp_path, base, 1200, settings, MergeConfig(max_new_tokens=16))
    assert values["greedy_agreement"] >= 0.98
    assert values["loss_merged"] == pytest.approx(values["loss_adapter"], abs=0.02)
