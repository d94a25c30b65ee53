"""A run's curve: kept, drawn, compared and written out for other tools, numbers only."""

from __future__ import annotations

import csv
import io
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from tests.cli.cli_shell import Shell
from tests.pipeline.conftest import Pipeline

from cloister.api import PlanRequest

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(pipeline: Pipeline) -> Shell:
    return Shell(pipeline.appliance.home.root)


def test_the_curve_holds_every_hold_out_figure_and_ends_with_the_run(pipeline: Pipeline) -> None:
    run = pipeline.appliance.client.run("first")
    curve = pipeline.appliance.client.run_curve("first")
    assert not curve.thinned and curve.points[-1].step == run.train_job.result["steps"]
    held = {
        point.step: point.values["holdout_loss"] for point in curve.points if "holdout_loss" in point.values
    }
    assert held[run.train_job.result["best_step"]] == run.train_job.result["holdout_loss"]
    assert {"loss", "learning_rate", "tokens_per_s"} <= set(curve.points[-1].values)


def test_it_is_drawn_compared_and_written_out(shell: Shell, tmp_path: Path) -> None:
    drawn = shell("run", "curve", "first").stdout
    assert "holdout_loss" in drawn and "optimizer steps" in drawn and "\x1b" not in drawn
    assert all(len(line) <= 80 for line in drawn.splitlines())
    told = shell("run", "curve", "first", "--metric", "perplexed", code=3).stderr
    assert "learning_rate" in told
    compared = shell("run", "compare", "first", "first").stdout
    assert "Both were set alike." in compared and "tuned exact match" in compared
    assert re.search(r"peak memory +\d+\.\d [MG]iB", compared)

    svg = tmp_path / "curve.svg"
    shell("run", "curve", "first", "--out", str(svg))
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    again = tmp_path / "again.svg"
    shell("run", "curve", "first", "--out", str(again))
    assert again.read_bytes() == svg.read_bytes()
    assert "is there already" in shell("run", "curve", "first", "--out", str(svg), code=4).stderr
    assert ".svg" in shell("run", "curve", "first", "--out", str(tmp_path / "curve.exe"), code=2).stderr
    table = tmp_path / "curve.csv"
    shell("run", "curve", "first", "--out", str(table))
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    points = shell.json("run", "curve", "first")["points"]
    assert [(int(row["step"]), row["loss"]) for row in rows] == [
        (point["step"], str(point["values"].get("loss", ""))) for point in points
    ]


def test_trackers_read_the_same_numbers(shell: Shell, tmp_path: Path) -> None:
    points = shell.json("run", "curve", "first")["points"]
    losses = [(point["step"], point["values"]["loss"]) for point in points if "loss" in point["values"]]

    shell("run", "curve", "first", "--tensorboard", str(tmp_path / "tb"))
    (events,) = (tmp_path / "tb" / "first").iterdir()
    assert [(step, pytest.approx(value, rel=1e-6)) for step, value in _scalars(events, "loss")] == losses
    assert (
        "is there already"
        in shell("run", "curve", "first", "--tensorboard", str(tmp_path / "tb"), code=4).stderr
    )

    told = shell("run", "curve", "first", "--mlflow", str(tmp_path / "mlruns")).stderr
    assert "MLFLOW_ALLOW_FILE_STORE=true" in told, "else MLflow 3 refuses a file store"
    (kept,) = (path for path in (tmp_path / "mlruns" / "0").iterdir() if path.is_dir())
    meta = yaml.safe_load((kept / "meta.yaml").read_text())
    assert meta["run_id"] == kept.name and meta["status"] == 3 and meta["start_time"] <= meta["end_time"]
    lines = [line.split() for line in (kept / "metrics" / "loss").read_text().splitlines()]
    assert [(int(step), float(value)) for _, value, step in lines] == losses
    assert (kept / "params" / "lora.rank").read_text().isdigit()


def _scalars(path: Path, tag: str) -> list[tuple[int, float]]:
    """The scalars of one name in an event file."""
    from tensorboardX.proto.event_pb2 import Event

    found, data, at = [], path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4
        found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
    return found


def test_a_plan_after_a_run_knows_what_it_took(pipeline: Pipeline, shell: Shell) -> None:
    client = pipeline.appliance.client
    run = client.run("first")
    plan = client.plan(PlanRequest(dataset=run.dataset, base=run.base, train=run.train))
    assert plan.lengths_measured and plan.time_measured and plan.memory_measured and plan.fits
    assert plan.memory == pytest.approx(run.train_job.result["peak_bytes"], rel=1e-3)
    assert plan.steps == run.train_job.result["steps"]
    shown = shell("plan", "--dataset", "claims", "--base", run.base, "--set", "micro_batch_size=1").stdout
    assert "by runs on this machine" in shown and "activations" in shown and "kWh" not in shown
    assert "by evaluations on this machine" in shown and f"{plan.rows} rows" in shown
    assert "the merged model fits" in shown
    unmeasured = shell("plan", "-d", "claims", "-b", run.base, "--evaluate", "none").stdout
    assert "measuring" not in unmeasured and "steps" in unmeasured
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "--set" in shell("plan", "-d", "claims", "-b", run.base, "--set", "epochs", code=2).stderr
    assert "epochs" in shell("plan", "-d", "claims", "-b", run.base, "--set", "epochs=none", code=2).stderr
