"""Rows from a sealed object train exactly as the same rows from a list, and leave no word of them on disk."""

from __future__ import annotations

from pathlib import Path

import torch

import tiny
import worker_jobs
from cloister.datasets.reader import DatasetReader
from cloister.models.adapter import add_adapter, read_adapter
from cloister.models.load import load_base
from cloister.training.recipe import train
from cloister.training.rows import RowSource
from cloister.vault import ObjectReader
from cloister.worker.verbs import train as train_verb
from worker_jobs import Recorder

CANARY = "zephyrine-canary-0417"


def test_sealed_and_plain_trajectories_are_the_same(tmp_path: Path) -> None:
    rows = tiny.rows(64)
    spoken = tiny.Row((tiny.Message("user", CANARY), tiny.Message("assistant", CANARY)))
    rows = [*rows, spoken]
    source = tmp_path / "source" / "rows.jsonl"
    source.parent.mkdir()
    source.write_bytes(tiny.lines(rows))
    objects = tmp_path / "objects"
    dataset = worker_jobs.import_dataset(objects, source, holdout=0.2)
    base = worker_jobs.import_base(objects, tiny.save_base(tmp_path / "model"))
    out = worker_jobs.output(objects, "adapter", "ad")
    settings = tiny.config(checkpoint_every=1)
    document = worker_jobs.job("train", settings, out, inputs={"dataset": dataset, "base": base})
    left: list[bytes] = []

    def look(recorder: Recorder) -> bool:
        left.extend(path.read_bytes() for path in objects.rglob("*") if path.is_file())
        return False

    train_verb.run(document, Recorder(stop_when=look))
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as stored:
        sealed = read_adapter(stored, "last")

    # The same rows in the same order, from memory; checkpoints unsealed or none at all.
    with (
        DatasetReader(Path(dataset.path), key=worker_jobs.raw_key(dataset)) as reader,
        ObjectReader(Path(base.path), key=None) as files,
    ):
        assert [reader[i] for i in range(len(reader))] == rows
        sides = {name: list(reader.indices(name)) for name in ("train", "holdout")}
        model, tokenizer = load_base(files, method="qlora")
    torch.manual_seed(settings.seed)
    model = add_adapter(model, settings.lora)
    plain = train(
        model,
        tokenizer,
        RowSource(rows, sides["train"]),
        settings,
        holdout=RowSource(rows, sides["holdout"]),
    )
    assert tiny.same_adapter(plain.last, sealed)
    assert len(left) > 50
    assert not any(CANARY.encode() in content for content in left)
    assert CANARY.encode() in source.read_bytes()
