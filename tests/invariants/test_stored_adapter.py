"""The saved adapter, reloaded, gives the evaluated loss; merged into 16 bits it stays close to that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import worker_jobs
from cloister.api import Grant, MergeConfig
from cloister.datasets.reader import DatasetReader
from cloister.evaluation.loss import mean_loss
from cloister.models.adapter import load_adapter
from cloister.models.load import load_base
from cloister.training.fused import fuse
from cloister.training.rows import RowSource, tokenise
from cloister.vault import ObjectReader
from cloister.worker.verbs import merge, train
from worker_jobs import Recorder

DEMO_BASE = Path(__file__).parents[2] / "src" / "cloister" / "demo" / "base"


def run(folder: Path, base: Grant, rows: int, settings: Any) -> tuple[Grant, Grant, dict[str, Any]]:
    source = folder / "rows.jsonl"
    source.write_bytes(tiny.lines(tiny.rows(rows, seed=2)))
    dataset = worker_jobs.import_dataset(folder, source, holdout=0.25)
    out = worker_jobs.output(folder, "adapter", "ad")
    document = worker_jobs.job("train", settings, out, inputs={"dataset": dataset, "base": base})
    values = train.run(document, Recorder())
    return dataset, worker_jobs.as_input(out), values


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_the_reloaded_adapter_gives_the_evaluated_loss(tmp_path: Path, method: str) -> None:
    base = worker_jobs.import_base(tmp_path, tiny.save_base(tmp_path / "model"))
    settings = tiny.config(epochs=6, learning_rate=2e-2, method=method)
    dataset, adapter, values = run(tmp_path, base, 96, settings)
    with (
        ObjectReader(Path(base.path), key=None) as files,
        ObjectReader(Path(adapter.path), key=worker_jobs.raw_key(adapter)) as stored,
        DatasetReader(Path(dataset.path), key=worker_jobs.raw_key(dataset)) as rows,
    ):
        model, tokenizer = load_base(files, method=method)
        model = load_adapter(model, stored, "best")
        fuse(model)
        tokens = tokenise(RowSource(rows, rows.indices("holdout")), tokenizer, settings.max_length)
        batches = [tokens.batch(indices) for indices in tokens.by_length(settings.micro_batch_size)]
        # The very number where the batches are the same, and the same model in others.
        assert mean_loss(model, batches) == values["holdout_loss"]
        others = [tokens.batch(indices) for indices in tokens.by_length(3)]
        assert mean_loss(model, others) == pytest.approx(values["holdout_loss"], rel=1e-2)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise AssertionError("the adapter is kept in float32")


@pytest.mark.slow
def test_merged_is_close_to_the_adapter(tmp_path: Path) -> None:
    """On the real small base model, after a run that changed it much."""
    base = worker_jobs.import_base(tmp_path, DEMO_BASE)
    settings = tiny.config(
        epochs=3,
        learning_rate=3e-3,
        batch_size=32,
        micro_batch_size=32,
        lora=tiny.LoraConfig(rank=16, alpha=32),
    )
    dataset, adapter, _ = run(tmp_path, base, 1200, settings)
    out = worker_jobs.output(tmp_path, "model", "mm")
    inputs = {"dataset": dataset, "base": base, "adapter": adapter}
    values = merge.run(
        worker_jobs.job("merge", MergeConfig(max_new_tokens=16), out, inputs=inputs), Recorder()
    )
    assert values["greedy_agreement"] >= 0.98
    assert values["loss_merged"] == pytest.approx(values["loss_adapter"], abs=0.02)
