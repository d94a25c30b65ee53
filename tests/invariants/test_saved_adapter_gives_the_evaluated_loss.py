"""The saved adapter, reloaded, gives the evaluated loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.invariants.trained import trained

import tiny
import worker_jobs
from cloister.datasets.reader import DatasetReader
from cloister.evaluation.loss import mean_loss
from cloister.models.adapter import load_adapter
from cloister.models.load import load_base
from cloister.training.fused import fuse
from cloister.training.rows import RowSource, tokenise
from cloister.vault import ObjectReader


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_the_reloaded_adapter_gives_the_evaluated_loss(tmp_path: Path, method: str) -> None:
    base = worker_jobs.import_base(tmp_path, tiny.save_base(tmp_path / "model"))
    settings = tiny.config(epochs=6, learning_rate=2e-2, method=method)
    dataset, adapter, values = trained(tmp_path, base, 96, settings)
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
