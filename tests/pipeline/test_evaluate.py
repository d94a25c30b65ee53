"""Was it worth it, through the command line: the claims desk, and a task for which looking up is enough."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import import_rows, short_run
from tests.pipeline.conftest import CANARY, Pipeline

from cloister.api import EvaluateConfig, EvaluationRequest, TableConfig
from cloister.demo.pretrain import words
from cloister.demo.search import find_leaks

pytestmark = pytest.mark.slow

METRIC = """
import json

def metric(prediction, expected, row):
    try:
        answer = json.loads(prediction)
    except ValueError:
        return 0.0
    return float(answer.get("policy") == json.loads(expected)["policy"] and len(row["messages"]) == 2)
"""


def cloister(pipeline: Pipeline, *arguments: str) -> Any:
    """What a command prints with --json."""
    environment = {**os.environ, "CLOISTER_HOME": str(pipeline.appliance.home.root)}
    command = [sys.executable, "-m", "cloister.cli.main", *arguments, "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


ASKS = (
    "And what is the number of {}?",
    "What is the code of {}?",
    "What number has {}?",
    "What code has {}?",
)


def lookups(people: int, seed: int) -> list[dict[str, Any]]:
    """Numbers of people, each asked for in four ways: what one way was asked in training, another asks later."""
    draw = random.Random(seed)
    rows = []
    for _ in range(people):
        name, number = words.full_name(draw), words.code(draw)
        for ask in ASKS:
            turns = {"role": "user", "content": ask.format(name)}, {"role": "assistant", "content": number}
            rows.append({"messages": list(turns)})
    draw.shuffle(rows)
    return rows


def test_the_claims_desk(pipeline: Pipeline, tmp_path: Path) -> None:
    metric = tmp_path / "metric.py"
    metric.write_text(METRIC)
    asked = (
        "--rows",
        "24",
        "--few-shot",
        "2",
        "--retrieve",
        "2",
        "--repeat",
        "1",
        "--metric",
        f"{metric}:metric",
    )
    pair = pipeline.appliance.client.run("first").evaluation
    found = cloister(pipeline, "evaluate", "first", *asked)
    assert {**found, "full": None} == {**(pair or {}), "full": None}
    full = found["full"]
    lines = {line["name"]: line for line in full["table"]["lines"]}
    assert list(lines) == ["base", "few-shot", "retrieval", "tuned"] and full["table"]["rows"] == 24
    assert full["table"]["kind"] == "extraction" and full["table"]["primary"] == "own"
    assert full["verdict"]["against"] in lines and full["verdict"]["sentences"]
    assert {"own", "field_accuracy", "json_valid", "exact_match"} == set(lines["tuned"]["figures"])

    assert {"groups", "labels"} <= cloister(pipeline, "evaluate", "show", "first", "--labels").keys()

    page = tmp_path / "page.html"
    assert cloister(pipeline, "evaluate", "export", "first", "--html", str(page))["files"] == [str(page)]
    shown = cloister(pipeline, "evaluate", "errors", "first", "--worst", "3")
    assert len(shown["worst"]) == 3 and all(json.loads(one["expected"])["policy"] for one in shown["worst"])
    assert not any(one["question"] in page.read_text() for one in shown["worst"])
    entries = pipeline.appliance.client.entries(shown["entry"], 1)
    assert entries[0].action == "evaluation.reveal" and entries[0].details["rows"] == 3
    assert not find_leaks(CANARY, [pipeline.appliance.home.root, page])


def test_where_looking_up_is_enough_the_verdict_says_so(pipeline: Pipeline) -> None:
    client = pipeline.appliance.client
    import_rows(client, "numbers", lookups(60, seed=5), holdout=0.3)
    request = short_run("numbers", dataset="numbers").model_copy(update={"evaluate": None})
    client.finished_job(client.start_run(request).train_job.job_id)
    table = TableConfig(few_shot=2, retrieve=1, repeat=1, alike_rows=8, general=False)
    asked = EvaluationRequest(config=EvaluateConfig(table=table, max_new_tokens=32))
    full = client.finished_job(client.evaluate_run("numbers", asked, {}).job_id).result["full"]
    verdict = full["verdict"]
    lines = {line["name"]: line["figures"]["exact_match"]["value"] for line in full["table"]["lines"]}
    assert lines["retrieval"] > 0.5 > lines["base"], lines
    assert verdict["advice"] == "do-not-deploy" and verdict["against"] == "retrieval", verdict
    assert verdict["sentences"][0].startswith("Prompting with retrieved examples is ")
    assert "do not deploy" in verdict["sentences"][0]
    assert full["bounds"]["advice"] == "do-not-deploy"
