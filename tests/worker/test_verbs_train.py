"""The verb `train`, with real objects: what it stores, what it says, how it is cut off and goes on."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import tiny
import worker_jobs
from cloister.api import EvaluateConfig, TrainConfig
from cloister.errors import Diverged, Interrupted, InvalidInput, Tampered
from cloister.training.ranks import Ranks
from cloister.training.rows import RowSource
from cloister.vault import ObjectReader
from cloister.worker.verbs import evaluate, measuring, train
from worker_jobs import Recorder

SETTINGS: TrainConfig = tiny.config(learning_rate=1e-2)


def job(stored: Any, out: Any, settings: TrainConfig = SETTINGS, **more: Any) -> Any:
    inputs = {"dataset": stored.dataset, "base": stored.base, **more.pop("inputs", {})}
    return worker_jobs.job("train", settings, out, inputs=inputs, **more)


def files(out: Any) -> set[str]:
    root = Path(out.path)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_an_adapter_object(stored: Any, tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    seen = Recorder()
    values = train.run(job(stored, out), seen)
    assert files(out) == {
        "manifest.json",
        "adapter_config.json",
        "best/adapter.safetensors",
        "last/adapter.safetensors",
        "history.json",
    }
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        reader.check(full=True)
        manifest = reader.manifest
        history = msgspec.json.decode(reader.read("history.json"))
    assert manifest.sealed
    assert manifest.details["method"] == "qlora"
    assert {ref.object_id for ref in manifest.inputs} == {stored.dataset.object_id, stored.base.object_id}
    assert len(history["losses"]) == values["steps"] == manifest.counts["steps"]
    assert values["holdout_loss"] == min(loss for _, loss in history["holdout_losses"])
    assert history["losses"][-1] < history["losses"][0]
    assert set(values) == {
        "steps",
        "train_loss",
        "holdout_loss",
        "holdout_start",
        "best_step",
        "tokens",
        "supervised_tokens",
        "tokens_per_s",
        "seconds",
        "longest",
        "peak_bytes",
        "processes",
        "peak_bytes_by_process",
        "devices",
        "epoch_rows",
        "epoch_tokens",
        "fell_back",
    }
    assert values["devices"] == 1 and not values["fell_back"]
    assert ("train", values["steps"], values["steps"]) in seen.progressed
    assert not [said for _, said in seen.noticed if "ask what is trained on" in said]


def test_a_hold_out_that_is_trained_on_is_said(stored: Any, tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    seen = Recorder()
    once = SETTINGS.model_copy(update={"max_steps": 1})
    train.run(job(stored, out, once, inputs={"holdout": stored.dataset}), seen)
    with ObjectReader(Path(stored.dataset.path), key=worker_jobs.raw_key(stored.dataset)) as reader:
        counts = reader.manifest.counts
    (said,) = [
        said for level, said in seen.noticed if level == "warning" and "ask what is trained on" in said
    ]
    assert said.startswith(f"{counts['train_rows']} of {counts['rows']} rows of the hold-out dataset")


def test_cut_off_and_resumed(stored: Any, tmp_path: Path) -> None:
    whole = worker_jobs.output(tmp_path, "adapter", "ad")
    wanted = train.run(job(stored, whole), Recorder())
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    asked = iter(range(7))
    cut = Recorder(stop_when=lambda recorder: next(asked, None) is None)
    with pytest.raises(Interrupted):
        train.run(job(stored, out), cut)
    assert not (Path(out.path) / "manifest.json").exists()
    assert all(name.startswith("checkpoints/step-") for name in files(out))
    values = train.run(job(stored, out, resume=True), Recorder())
    of_this_attempt = ("seconds", "tokens_per_s", "peak_bytes", "peak_bytes_by_process")
    assert {k: v for k, v in values.items() if k not in of_this_attempt} == {
        k: v for k, v in wanted.items() if k not in of_this_attempt
    }
    assert not any(name.startswith("checkpoints") for name in files(out))


def breaks_after(step: int, monkeypatch: pytest.MonkeyPatch, number: float) -> Recorder:
    """A worker that hears of everything, and whose base is multiplied by that number after the step."""
    loaded: list[Any] = []
    load = train.load_base

    def keep(*given: Any, **more: Any) -> Any:
        loaded.append(load(*given, **more))
        return loaded[-1]

    def breaks(recorder: Recorder) -> bool:
        if loaded and recorder.progressed[-1][:2] == ("train", step):
            with torch.no_grad():
                loaded.pop()[0].model.norm.weight.mul_(number)
        return False

    monkeypatch.setattr(train, "load_base", keep)
    return Recorder(stop_when=breaks)


def test_a_run_that_goes_wrong_stores_its_best_adapter_and_says_what_happened(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    often = SETTINGS.model_copy(update={"eval_every": 3, "checkpoint_every": 3})
    values = train.run(job(stored, out, often), breaks_after(7, monkeypatch, math.nan))
    assert files(out) == {"manifest.json", "adapter_config.json", "best/adapter.safetensors", "history.json"}
    assert values["failure"]["code"] == "diverged" and "step 8" in values["failure"]["message"]
    assert values["best_step"] == 6 and values["steps"] == 7
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        reader.check(full=True)
        assert reader.manifest.details["went_wrong"] == values["failure"]["message"]
        assert reader.manifest.details["best_step"] == 6
        history = msgspec.json.decode(reader.read("history.json"))
    assert history["failure"] == values["failure"] and len(history["losses"]) == 7
    seen = Recorder()
    measured = {"dataset": stored.dataset, "base": stored.base, "adapter": worker_jobs.as_input(out)}
    monkeypatch.undo()
    scores = evaluate.run(
        worker_jobs.job(
            "evaluate", EvaluateConfig(), worker_jobs.output(tmp_path, "evaluation", "ev"), inputs=measured
        ),
        seen,
    )
    assert scores["tuned"]["loss"] == pytest.approx(values["holdout_loss"], abs=1e-4)
    assert any("went wrong" in said for level, said in seen.noticed if level == "warning")


def test_a_run_that_goes_wrong_before_it_was_measured_stores_nothing(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    with pytest.raises(Diverged, match="Nothing was measured"):
        train.run(job(stored, out), breaks_after(2, monkeypatch, math.nan))
    assert not (Path(out.path) / "manifest.json").exists()


def test_another_dataset_may_be_the_holdout(stored: Any, tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    train.run(job(stored, out, inputs={"holdout": stored.labelled}), Recorder())
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        assert reader.manifest.counts["holdout_rows"] == 80


def test_rows_that_do_not_fit_are_named(stored: Any, tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    with pytest.raises(InvalidInput, match="longer than 20 tokens"):
        train.run(job(stored, out, tiny.config(max_length=20)), Recorder())
    assert files(out) == set()


def test_a_changed_base_is_noticed_before_training(stored: Any, tmp_path: Path) -> None:
    base = worker_jobs.import_base(tmp_path, stored.folder / "tiny")
    weights = Path(base.path) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    with pytest.raises(Tampered, match=r"model\.safetensors"):
        train.run(job(stored, out, inputs={"base": base}), Recorder())


def test_fewer_rows_lie_within_more_and_a_seed_draws_its_own() -> None:
    rows = RowSource(None, list(range(100, 1100)), "x")
    parts = [set(measuring.nested(rows, most, 3).indices) for most in (50, 100, 999)]
    assert [len(part) for part in parts] == [50, 100, 999] and parts[0] < parts[1] < parts[2] < set(
        rows.indices
    )
    drawn = measuring.nested(rows, 50, 3).indices
    assert list(drawn) == sorted(drawn) and list(drawn) == list(measuring.nested(rows, 50, 3).indices)
    assert parts[0] != set(measuring.nested(rows, 50, 4).indices)
    assert measuring.nested(rows, 0, 3) is rows and measuring.nested(rows, 1000, 3) is rows


def test_a_run_of_so_many_rows_is_given_those_of_its_seed_and_the_whole_hold_out(
    stored: Any, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"max_rows": 7, "seed": 3})
    with ExitStack() as stack:
        document = job(stored, worker_jobs.output(tmp_path, "adapter", "ad"), settings)
        given = train._open(document, settings, Ranks(), stack)
        dataset = given.rows.rows
        every = RowSource(dataset, dataset.indices("train"))
        assert (
            list(given.rows.indices) == list(measuring.nested(every, 7, 3).indices) and len(given.rows) == 7
        )
        assert list(given.holdout.indices) == list(dataset.indices("holdout"))


def test_any_seed_draws() -> None:
    rows = RowSource(None, range(100), "x")
    assert len(measuring.nested(rows, 5, -1)) == 5
