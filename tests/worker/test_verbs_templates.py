"""A domain's plain texts, and a template of ours: trained, merged, and carried by the merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.test_templates import SPECIAL, tokenizer

import tiny
import worker_jobs
from cloister.api import EvaluateConfig, MergeConfig, ReportConfig, TableConfig
from cloister.datasets.templates import TEMPLATES
from cloister.evaluation.report import decode_samples
from cloister.models.load import load_base
from cloister.vault import ObjectReader
from cloister.worker.verbs import evaluate, merge, report, train
from worker_jobs import Recorder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("base")
    tiny.model(vocab_size=len(SPECIAL) + 256).save_pretrained(folder / "m", safe_serialization=True)
    made = tokenizer()
    made.chat_template = tiny.TEMPLATE  # whose turns end with no special token of this tokenizer
    made.save_pretrained(folder / "m")
    return worker_jobs.import_base(folder, folder / "m")


def tuned(folder: Path, base: Any, lines: list[dict[str, Any]], **settings: Any) -> Any:
    """The merged model of a run on these rows."""
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = worker_jobs.import_dataset(folder, source, holdout=0.2)
    adapter = worker_jobs.output(folder, "adapter", "ad")
    inputs = {"dataset": dataset, "base": base}
    config = tiny.config(learning_rate=1e-2, max_length=64, **settings)
    train.run(worker_jobs.job("train", config, adapter, inputs=inputs), Recorder())
    out = worker_jobs.output(folder, "model", "mm")
    inputs["adapter"] = worker_jobs.as_input(adapter)
    loose = MergeConfig(max_rows=4, max_new_tokens=4, min_agreement=0.0, max_loss_gap=1.0)
    merge.run(worker_jobs.job("merge", loose, out, inputs=inputs), Recorder())
    return ObjectReader(Path(out.path), key=worker_jobs.raw_key(out))


def test_a_template_of_ours_goes_with_the_merged_model(base: Any, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": m.role, "content": m.content} for m in row.messages]} for row in tiny.rows(40)
    ]
    model, made = load_base(tuned(tmp_path, base, rows, template="chatml"))
    assert made.chat_template == TEMPLATES["chatml"].text
    end = made.convert_tokens_to_ids("<|im_end|>")
    assert end in model.generation_config.eos_token_id, "what ends a turn ends an answer"


def test_the_empty_thought_that_qwen_3_is_taught_is_no_part_of_its_answers(base: Any, tmp_path: Path) -> None:
    """It writes one before every last answer: read to the letter, a model that learnt all would have learnt nothing."""
    rows = [{"prompt": row.messages[0].content, "completion": "elm"} for row in tiny.rows(40)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {"dataset": worker_jobs.import_dataset(tmp_path, source, holdout=0.2), "base": base}
    adapter = worker_jobs.output(tmp_path, "adapter", "ad")
    config = tiny.config(learning_rate=1e-2, epochs=12, template="qwen3")
    train.run(worker_jobs.job("train", config, adapter, inputs=inputs), Recorder())
    inputs["adapter"] = worker_jobs.as_input(adapter)
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    values = evaluate.run(
        worker_jobs.job("evaluate", EvaluateConfig(max_new_tokens=48), out, inputs=inputs), Recorder()
    )
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        samples = decode_samples(reader.read("samples.bin"))
    assert {sample.tuned for sample in samples} == {"<think>\n\n</think>\n\nelm"}
    assert values["tuned"]["exact_match"] == 1.0


def test_a_thought_that_the_template_opens_is_no_part_of_an_answer(tmp_path: Path) -> None:
    """As DeepSeek R1's does: what is cut off in it says nothing, whatever it was thinking of."""
    (tmp_path / "m").mkdir()
    tiny.model().save_pretrained(tmp_path / "m", safe_serialization=True)
    made = tiny.tokenizer()
    made.chat_template = tiny.TEMPLATE.replace(
        "{% if add_generation_prompt %}<|assistant|>", "{% if add_generation_prompt %}<|assistant|><think>\n"
    )
    assert made.chat_template != tiny.TEMPLATE
    made.save_pretrained(tmp_path / "m")
    inputs = {"base": worker_jobs.import_base(tmp_path, tmp_path / "m")}
    source = tmp_path / "rows.jsonl"
    said = "<think>\nelm?\n</think>\n\nelm"
    rows = [{"prompt": row.messages[0].content, "completion": said} for row in tiny.rows(40)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs["dataset"] = worker_jobs.import_dataset(tmp_path, source, holdout=0.2)
    adapter = worker_jobs.output(tmp_path, "adapter", "ad")
    config = tiny.config(learning_rate=1e-2, epochs=12)
    train.run(worker_jobs.job("train", config, adapter, inputs=inputs), Recorder())
    inputs["adapter"] = worker_jobs.as_input(adapter)

    def evaluated(config: EvaluateConfig) -> tuple[dict[str, Any], set[str], Recorder]:
        out, told = worker_jobs.output(tmp_path, "evaluation", "ev"), Recorder()
        values = evaluate.run(worker_jobs.job("evaluate", config, out, inputs=inputs), told)
        with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
            return values, {one.tuned for one in decode_samples(reader.read("samples.bin"))}, told

    values, answers, _ = evaluated(EvaluateConfig(max_new_tokens=3))
    assert answers == {"<think>\nelm"} and values["tuned"]["exact_match"] == 0.0
    nothing_else = TableConfig(few_shot=0, retrieve=0, alike_rows=0, repeat=0, untuned_tokens=8, general=True)
    values, answers, told = evaluated(EvaluateConfig(table=nothing_else))
    assert answers == {said} and values["tuned"]["exact_match"] == 1.0
    asked = [total for stage, done, total in told.progressed if stage == "general check" and done == total]
    assert len(asked) > 2, "who still thinks is given longer"


def test_rows_that_end_with_a_call_are_measured_by_the_call(base: Any, tmp_path: Path) -> None:
    call = {"function": {"name": "find", "arguments": {"a": 1}}}
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "tool_calls": [call]}]}
        for i in range(30)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {"dataset": worker_jobs.import_dataset(tmp_path, source, holdout=0.2), "base": base}
    adapter = worker_jobs.output(tmp_path, "adapter", "ad")
    config = tiny.config(max_steps=1, max_length=250, template="qwen3")
    train.run(worker_jobs.job("train", config, adapter, inputs=inputs), Recorder())
    inputs["adapter"] = worker_jobs.as_input(adapter)
    out = worker_jobs.output(tmp_path, "evaluation", "ev")
    asked = EvaluateConfig(
        table=TableConfig(few_shot=1, retrieve=1, alike_rows=0, repeat=0, general=False, untuned_tokens=8)
    )
    values = evaluate.run(worker_jobs.job("evaluate", asked, out, inputs=inputs), Recorder())
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        samples = decode_samples(reader.read("samples.bin"))
    written = '<think>\n\n</think>\n\n<tool_call>\n{"name": "find", "arguments": {"a": 1}}\n</tool_call>'
    assert {sample.expected for sample in samples} == {written}
    lines = {line["name"]: line for line in values["full"]["table"]["lines"]}
    assert lines["tuned"]["longest"] == len(written) + evaluate.SPARE_TOKENS, "a byte is a token here"
    assert values["full"]["table"]["kind"] == "answer" and {"few-shot", "retrieval"} <= set(lines)
    assert values["base"]["exact_match"] == 0.0, "who says nothing is not right"


def test_a_report_loses_what_a_run_with_that_template_would(base: Any, tmp_path: Path) -> None:
    """With the model's own template no row can be learnt from, with one of ours all can."""
    source = tmp_path / "rows.jsonl"
    source.write_bytes(tiny.lines(tiny.rows(12)))
    inputs = {"dataset": worker_jobs.import_dataset(tmp_path, source, holdout=0.0), "base": base}

    def lost(**config: Any) -> int:
        asked = ReportConfig(quality=False, **config)
        return sum(
            report.run(worker_jobs.job("report", asked, None, inputs=inputs), Recorder())["lost"].values()
        )

    assert lost() == 12
    assert lost(template="chatml") == lost(template="chatml", loss_on="last") == 0
    assert lost(template="chatml", max_length=8) == 12


def test_plain_texts_are_learnt_and_merged(base: Any, tmp_path: Path) -> None:
    rows = [{"text": " ".join(m.content for m in row.messages) * (1 + i % 4)}
            for i, row in enumerate(tiny.rows(40))]  # fmt: skip
    _, made = load_base(tuned(tmp_path, base, rows))
    assert made.chat_template == tiny.TEMPLATE
