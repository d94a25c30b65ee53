"""A short run through the worker's verbs, for what holds of its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import worker_jobs
from cloister.api import Grant
from cloister.worker.verbs import train
from worker_jobs import Recorder


def trained(folder: Path, base: Grant, rows: int, settings: Any) -> tuple[Grant, Grant, dict[str, Any]]:
    """The dataset, the adapter and the run's numbers."""
    source = folder / "rows.jsonl"
    source.write_bytes(tiny.lines(tiny.rows(rows, seed=2)))
    dataset = worker_jobs.import_dataset(folder, source, holdout=0.25)
    out = worker_jobs.output(folder, "adapter", "ad")
    document = worker_jobs.job("train", settings, out, inputs={"dataset": dataset, "base": base})
    values = train.run(document, Recorder())
    return dataset, worker_jobs.as_input(out), values
