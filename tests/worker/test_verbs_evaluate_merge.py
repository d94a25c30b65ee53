"""The verbs `evaluate` and `merge`, with real objects of a short run."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

import tiny
import worker_jobs
from cloister.api import Costs, ErrorsConfig, EvaluateConfig, Grant, MergeConfig, TableConfig
from cloister.datasets.canonical import DatasetWriter
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput, JobFailed
from cloister.evaluation import table
from cloister.evaluation.report import decode_samples
from cloister.models.load import load_base
from cloister.sandbox import memory_file
from cloister.vault import ObjectReader, ObjectWriter
from cloister.worker.verbs import answered, errors, evaluate, measuring, merge, train
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


METRIC = b"""
def metric(prediction, expected, row):
    return {"same": prediction == expected, "asked": len(row["messages"][0]["content"])}
"""


def table_job(stored: Any, run: tuple[Grant, Any], out: Grant, files: dict[str, bytes], **more: Any) -> Any:
    """An evaluation with the whole table; `files` are handed over as the authority would."""
    digests = {f"{role}_sha256": hashlib.sha256(data).hexdigest() for role, data in files.items()}
    values = {
        "few_shot": 3,
        "retrieve": 2,
        "repeat": 1,
        "alike_rows": 4,
        "untuned_tokens": 9,
        **digests,
        **more,
    }
    wanted = TableConfig(general=False, **values)
    config = EvaluateConfig(max_new_tokens=8, batch_size=8, table=wanted, costs=Costs(hour=2.0, case=1.0))
    descriptors = {role: memory_file(role, data) for role, data in files.items()}
    given = inputs(stored, run, larger=stored.base)
    return worker_jobs.job("evaluate", config, out, inputs=given, descriptors=descriptors)


def test_the_whole_table(stored: Any, run: tuple[Grant, dict[str, Any]], tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    values = evaluate.run(table_job(stored, run, out, {"metric": METRIC}, metric="metric"), Recorder())
    full = values["full"]
    made = table.of(full["table"])
    lines = {line.name: line for line in made.lines}
    assert list(lines) == ["base", "few-shot", "retrieval", "tuned", "larger", "larger few-shot"]
    tuned = lines["tuned"]
    assert tuned.figures["accuracy"].value >= values["tuned"]["accuracy"]
    assert tuned.figures["own.same"].value == values["tuned"]["exact_match"]
    assert made.primary == "own.same" and made.kind == "label"
    assert lines["retrieval"].examples == 2 and lines["few-shot"].examples > 0 and lines["base"].instructed
    assert lines["larger"].figures == lines["base"].figures, "the larger one is the base itself here"
    assert lines["few-shot"].prompt_tokens > lines["base"].prompt_tokens > tuned.prompt_tokens
    assert all(line.consistency and line.latency_s and line.cost for line in made.lines)
    assert tuned.longest == 8 and tuned.cut is not None and tuned.cut < 0.5
    assert {line.longest for line in made.lines} == {8, 9}, "those that were not tuned have their own limit"
    assert lines["base"].cut == 1.0, "an untuned model at random weights never ends"
    assert full["verdict"]["advice"] == "deploy" and full["bounds"]["gain_low"] > 0
    assert full["bounds"]["accuracy_low"] <= tuned.figures["accuracy"].value
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        report = msgspec.json.decode(reader.read("report.json"))
        samples = decode_samples(reader.read("samples.bin"))
        manifest = reader.manifest
    assert report["full"] == msgspec.to_builtins(full) and {one["label"] for one in report["labels"]} == {
        "tree",
        "other",
    }
    assert samples[0].question.startswith("last of") and set(samples[0].others) == set(lines) - {"tuned"}
    spoken = json.dumps([values, msgspec.to_builtins(manifest.details)])
    assert "tree" not in spoken and "last of" not in spoken


def test_untuned_models_have_room_for_other_words(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path
) -> None:
    """Of a small context a quarter, which is said; what is asked for, up to half of it."""
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    job = table_job(stored, run, out, {}, untuned_tokens=None, few_shot=0, retrieve=0, alike_rows=0)
    job = job.model_copy(update={"inputs": inputs(stored, run), "config": job.config | {"max_rows": 6}})
    full = evaluate.run(job, Recorder())["full"]
    limits = {line["name"]: line["longest"] for line in full["table"]["lines"]}
    assert limits == {"base": 64, "tuned": 8} and any("of 256 tokens" in note for note in full["notes"])


@pytest.fixture
def tuned_at_the_next_load(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether the tuned model was still in memory, each time that another one was loaded after it."""
    held: list[weakref.ref[Any]] = []
    found: list[bool] = []
    load_tuned = measuring.load_tuned

    def tuned(*arguments: Any) -> Any:
        made = load_tuned(*arguments)
        held.extend(
            weakref.ref(weight) for name, weight in made.model.named_parameters() if "base_layer" in name
        )
        return made

    def watched(load: Any) -> Any:
        def loaded(*arguments: Any, **known: Any) -> Any:
            found.append(any(weight() is not None for weight in held))
            return load(*arguments, **known)

        return loaded

    monkeypatch.setattr(measuring, "load_tuned", tuned)
    monkeypatch.setattr(merge, "load_model", watched(merge.load_model))
    monkeypatch.setattr(evaluate, "load_base", watched(evaluate.load_base))
    gc.disable()  # it might come by itself
    try:
        yield found
    finally:
        gc.enable()


def test_the_tuned_model_is_gone_when_a_candidate_is_loaded(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path, tuned_at_the_next_load: list[bool]
) -> None:
    """Memory that holds one of them may not hold both."""
    out = worker_jobs.output(tmp_path, "model", "md")
    config = MergeConfig(max_new_tokens=8, min_agreement=0.0, max_loss_gap=10.0)
    merge.run(worker_jobs.job("merge", config, out, inputs=inputs(stored, run)), Recorder())
    assert tuned_at_the_next_load == [False, False]


def test_the_tuned_model_is_gone_when_a_larger_one_is_loaded(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path, tuned_at_the_next_load: list[bool]
) -> None:
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    evaluate.run(table_job(stored, run, out, {}), Recorder())
    assert tuned_at_the_next_load == [False]


def test_errors_are_written_worst_first(stored: Any, run: tuple[Grant, Any], tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    config = EvaluateConfig(max_new_tokens=8, batch_size=8)
    values = evaluate.run(worker_jobs.job("evaluate", config, out, inputs=inputs(stored, run)), Recorder())
    reading, writing = os.pipe()
    given = {"evaluation": worker_jobs.as_input(out)}
    job = worker_jobs.job(
        "errors", ErrorsConfig(worst=5), None, inputs=given, descriptors={"output": writing}
    )
    told = errors.run(job, Recorder())
    with os.fdopen(reading, "rb") as file:
        shown = msgspec.json.decode(file.read())
    assert told["rows"] == len(shown["worst"]) == 5 and shown["labels"] == []
    wrong = [one["tuned"] != one["expected"] for one in shown["worst"]]
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == min(5, round((1 - values["tuned"]["exact_match"]) * values["rows"]))


def test_a_metric_that_fails_fails_the_job_before_anything_is_measured(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path
) -> None:
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    with pytest.raises(JobFailed, match="SyntaxError in line 1"):
        evaluate.run(table_job(stored, run, out, {"metric": b"def ("}, metric="metric"), Recorder())
    job = table_job(stored, run, out, {"metric": METRIC}, metric="metric")
    os.close(job.descriptors["metric"])
    lost = job.model_copy(update={"descriptors": {}})
    with pytest.raises(JobFailed, match="handed over for an earlier attempt"):
        evaluate.run(lost, Recorder())
    other = job.model_copy(update={"descriptors": {"metric": memory_file("metric", METRIC + b" ")}})
    with pytest.raises(InvalidInput, match="announced"):
        evaluate.run(other, Recorder())


def written(folder: Path, rows: list[Row]) -> Grant:
    """A dataset of these rows, half of them held out."""
    out = worker_jobs.output(folder, "dataset", "ds")
    writer = ObjectWriter(
        Path(out.path), object_id=out.object_id, kind="dataset", version=1, key=worker_jobs.raw_key(out)
    )
    with DatasetWriter(writer, holdout=0.5, seed=0) as dataset:
        dataset.add(rows)
        dataset.finish(source_format="jsonl")
    writer.finish(created_at="2026-01-01T00:00:00+00:00", counts={"rows": len(rows)})
    return worker_jobs.as_input(out)


@pytest.mark.parametrize("longest", [20, 90])
def test_plain_text_is_told_by_its_loss_and_by_group(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path, longest: int
) -> None:
    draw = random.Random(1)
    texts = [" ".join(draw.choices(tiny.WORDS, k=draw.randint(5, longest))) for _ in range(24)]
    rows = [Row(text=text, groups={"site": "ab"[i % 2]}) for i, text in enumerate(texts)]
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    given = inputs(stored, run, dataset=written(tmp_path, rows), larger=stored.base)
    config = EvaluateConfig(batch_size=8, table=TableConfig(general=False))
    seen = Recorder()
    values = evaluate.run(worker_jobs.job("evaluate", config, out, inputs=given), seen)
    assert all(done <= total for _, done, total in seen.progressed)
    made = table.of(values["full"]["table"])
    assert made.kind == "text" and [line.name for line in made.lines] == ["base", "tuned"]
    base, tuned = made.lines
    assert tuned.figures["loss"].value == pytest.approx(values["tuned"]["loss"])
    assert base.gain is not None and base.gain.value == pytest.approx(
        values["base"]["loss"] - values["tuned"]["loss"]
    )
    windows = longest * 6 > 128  # such texts are read in several, which are no rows
    assert "exact_match" not in values["tuned"] and len(values["full"]["notes"]) == 2 + windows
    assert [sum(one.rows for one in column) for column in made.groups] == ([] if windows else [made.rows])


def test_groups_are_told_by_number(stored: Any, run: tuple[Grant, Any], tmp_path: Path) -> None:
    rows = [replace(row, groups={"site": f"site {i % 3}"}) for i, row in enumerate(tiny.rows(9))]
    columns, positions = answered.groups(rows)
    assert columns == [{"column": "site", "groups": ["site 0", "site 1", "site 2"]}]
    assert positions == [[[0, 3, 6], [1, 4, 7], [2, 5, 8]]]


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


def test_answers_have_room_for_the_longest_expected_one_or_it_is_told(
    stored: Any, run: tuple[Grant, Any], tmp_path: Path
) -> None:
    few = {"few_shot": 0, "retrieve": 0, "alike_rows": 0}
    for most, limit in ((None, 21), (3, 3)):
        out, seen = worker_jobs.output(tmp_path, "evaluation", "ev"), Recorder()
        silent = b"def metric(*a): return " + (b"{}" if most else b"float('nan')")
        job = table_job(stored, run, out, {"metric": silent}, metric="metric", **few)
        changed = job.config | {"max_rows": 6, "max_new_tokens": most}
        job = job.model_copy(update={"inputs": inputs(stored, run), "config": changed})
        full = evaluate.run(job, seen)["full"]
        assert {line["name"]: line["longest"] for line in full["table"]["lines"]}["tuned"] == limit
        told = "Answers are cut off at 3 tokens, and the longest expected one has 5."
        assert (told in full["notes"]) == (("warning", told) in seen.noticed) == (most == 3)
        assert full["table"]["primary"] == "accuracy" and any("gave no number" in n for n in full["notes"])
        assert full["verdict"]["against"] == "base", "it says against what"


def test_the_loss_is_of_what_the_run_learnt(stored: Any, tmp_path: Path) -> None:
    """With all tokens learnt the hold-out's loss is of all of them, afterwards too."""
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    settings = tiny.config(epochs=4, learning_rate=2e-2, loss_on="all")
    given = {"dataset": stored.labelled, "base": stored.base}
    learnt = train.run(worker_jobs.job("train", settings, out, inputs=given), Recorder())
    given["adapter"] = worker_jobs.as_input(out)
    config = EvaluateConfig(max_new_tokens=1)
    measured = worker_jobs.output(tmp_path, "evaluation", "ev")
    values = evaluate.run(worker_jobs.job("evaluate", config, measured, inputs=given), Recorder())
    assert values["tuned"]["loss"] == pytest.approx(learnt["holdout_loss"], rel=1e-2)


@pytest.mark.parametrize(
    ("history", "seconds"),
    [({"seconds": 60.0, "devices": 4}, 240.0), ({"seconds": 60.0}, 60.0), ({}, None)],
)
def test_a_training_on_four_gpus_costs_that_of_four(history: dict[str, Any], seconds: float | None) -> None:
    class Adapter:
        def read(self, name: str) -> bytes:
            return json.dumps(history).encode()

    assert evaluate._device_seconds(Adapter()) == seconds


@pytest.mark.parametrize(
    ("alike", "rows", "bound", "fits"),
    [
        (18, 19, 0.98, True),  # one, where none would be allowed
        (17, 19, 0.98, False),
        (126, 128, 0.98, True),
        (125, 128, 0.98, False),
        (98, 100, 0.98, True),
        (18, 19, 1.0, False),
        (19, 19, 1.0, True),
    ],
)
def test_one_answer_alone_refuses_no_merge_unless_all_have_to_agree(
    alike: int, rows: int, bound: float, fits: bool
) -> None:
    candidates = {"pristine": merge.Candidate(1.0, alike / rows), "nf4": merge.Candidate(1.0, 0.0)}
    config = MergeConfig(min_agreement=bound)
    if fits:
        assert merge.choose(candidates, 1.0, config, rows) == "pristine"
    else:
        with pytest.raises(JobFailed, match="close to the adapter"):
            merge.choose(candidates, 1.0, config, rows)
