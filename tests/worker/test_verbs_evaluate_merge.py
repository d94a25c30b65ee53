"""The verbs `evaluate` and `merge`, with real objects of a short run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import tiny
import worker_jobs
from cloister.api import EvaluateConfig, Grant, MergeConfig
from cloister.errors import InvalidInput, JobFailed
from cloister.evaluation.report import decode_samples
from cloister.models.load import load_base
from cloister.vault import ObjectReader
from cloister.worker.verbs import evaluate, merge, train
from worker_jobs import Recorder


@pytest.fixture(scope="module")
def run(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Grant, dict[str, Any]]:
    """A run on the labelled rows that really learns them."""
    out = worker_jobs.output(tmp_path_factory.mktemp("run"), "adapter", "ad")
    settings = tiny.config(epochs=40, learning_rate=3e-2, batch_size=16, micro_batch_size=16)
    inputs = {"dataset": stored.labelled, "base": stored.base}
    values = train.run(worker_jobs.job("train", settings, out, inputs=inputs), Recorder())
    return worker_jobs.as_input(out), values


def inputs(stored: Any, run: tuple[Grant, Any], **more: Grant) -> dict[str, Grant]:
    return {"dataset": stored.labelled, "base": stored.base, "adapter": run[0], **more}


def test_base_against_tuned(stored: Any, run: tuple[Grant, dict[str, Any]], tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    config = EvaluateConfig(max_new_tokens=8, batch_size=8)
    seen = Recorder()
    values = evaluate.run(worker_jobs.job("evaluate", config, out, inputs=inputs(stored, run)), seen)
    assert values["tuned"]["loss"] == pytest.approx(run[1]["holdout_loss"], rel=2e-2)
    assert values["tuned"]["loss"] < values["base"]["loss"]
    assert values["tuned"]["accuracy"] == values["tuned"]["exact_match"] > 0.3
    assert values["base"]["accuracy"] == 0
    assert {stage for stage, _, _ in seen.progressed} == {"load", "base", "tuned"}
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        reader.check(full=True)
        assert set(reader.files) == {"report.json", "samples.bin"}
        report = msgspec.json.decode(reader.read("report.json"))
        samples = decode_samples(reader.read("samples.bin"))
    assert report["tuned"] == values["tuned"]
    assert len(samples) == values["rows"]
    right = sum(sample.tuned == sample.expected for sample in samples)
    assert right / len(samples) == values["tuned"]["exact_match"]


def test_fewer_rows_and_another_holdout(stored: Any, run: tuple[Grant, Any], tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    config = EvaluateConfig(max_new_tokens=2, max_rows=5)
    more = inputs(stored, run, holdout=stored.dataset)
    values = evaluate.run(worker_jobs.job("evaluate", config, out, inputs=more), Recorder())
    assert values["rows"] == 5
    assert "accuracy" not in values["tuned"]


def test_without_a_holdout_there_is_nothing_to_measure(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(tiny.lines(tiny.rows(6)))
    alone = worker_jobs.import_dataset(tmp_path, source, holdout=0.0)
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    asked = inputs(stored, run, dataset=alone)
    with pytest.raises(InvalidInput, match="hold-out"):
        evaluate.run(worker_jobs.job("evaluate", EvaluateConfig(), out, inputs=asked), Recorder())


def test_the_closer_candidate_is_stored(stored: Any, run: tuple[Grant, Any], tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "model", "mm")
    config = MergeConfig(max_new_tokens=8, min_agreement=0.5, max_loss_gap=1.0)
    values = merge.run(worker_jobs.job("merge", config, out, inputs=inputs(stored, run)), Recorder())
    chosen = values["candidates"][values["base"]]
    assert set(values["candidates"]) == {"pristine", "nf4"}
    assert values["greedy_agreement"] == chosen["greedy_agreement"]
    assert values["greedy_agreement"] == max(c["greedy_agreement"] for c in values["candidates"].values())
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        reader.check(full=True)
        assert reader.manifest.sealed
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(reader.files)
        model, tokenizer = load_base(reader, method="none")
    assert tokenizer.chat_template == tiny.TEMPLATE
    assert model.config.model_type == "llama"


def test_a_merge_that_is_not_close_is_refused_with_its_figures(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path
) -> None:
    out = worker_jobs.output(tmp_path, "model", "mm")
    config = MergeConfig(max_new_tokens=8, max_loss_gap=0.0, min_agreement=1.0)
    with pytest.raises(JobFailed, match=r"nf4: agreement .* pristine: agreement"):
        merge.run(worker_jobs.job("merge", config, out, inputs=inputs(stored, run)), Recorder())
    assert not (Path(out.path) / "manifest.json").exists()
