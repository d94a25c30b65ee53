"""`run init`, `run presets` and run files, as typed."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from cli_shell import CLOISTER, Shell

from cloister.api import LoraConfig, Run, TrainConfig
from cloister.cli.run_files import run_request
from cloister.recipes import parse_run_file


@pytest.fixture
def cloister(tmp_path: Path) -> Shell:
    (tmp_path / "home").mkdir()
    return Shell(tmp_path / "home")


def test_five_questions_write_a_run_file(cloister: Shell, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "CLOISTER_HOME": str(cloister.home.root), "COLUMNS": "80"}
    process = subprocess.Popen(
        [CLOISTER, "run", "init", str(tmp_path / "run.yaml")],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"9\n2\nclaims\nsmall\nspeed\nBad Name\n")
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    assert process.wait(60) == 2 and b"name" in shown and not (tmp_path / "run.yaml").exists()
    assert b"put texts into classes" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other side has closed
        return b""


def test_a_run_file_is_written_once_and_read_by_start(cloister: Shell, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    options = ["--preset", "style", "--dataset", "d", "--base", "b", "--for", "quality", "--name", "n"]
    cloister("run", "init", str(path), *options)
    assert parse_run_file(path.read_bytes(), "run.yaml").dataset == "d"
    assert "is there already" in cloister("run", "init", str(path), *options, code=4).stderr
    cloister("run", "init", str(path), *options, "--force")
    assert "nobody to ask" in cloister("run", "init", str(tmp_path / "other"), code=2).stderr
    wrong = cloister("run", "init", str(tmp_path / "other"), *options[2:], "--preset", "no", code=3).stderr
    assert "instruction" in wrong


def test_a_translated_recipe_says_with_what_it_can_be_started(cloister: Shell, tmp_path: Path) -> None:
    """A recipe names no dataset and no base of this house."""
    recipe, path = tmp_path / "axolotl.yaml", tmp_path / "run.yaml"
    recipe.write_text("base_model: m\nadapter: lora\nwarmup_steps: 10\n")
    told = cloister("run", "init", str(path), "--from", str(recipe), "--dataset", "d").stderr
    assert f"`cloister run start {path} --name NAME --base BASE --watch`" in told
    assert "0.05 where nothing is said" in told
    told = cloister("run", "start", str(path), "--dataset", "d", code=2).stderr
    assert "what is the run's name and base?" in told


def test_what_start_is_not_told_is_named(cloister: Shell, tmp_path: Path) -> None:
    told = cloister("run", "start", "--preset", "chat", "--name", "n", code=2).stderr
    assert "dataset and base" in told
    path = tmp_path / "run.yaml"
    path.write_text("train: {}\n")
    told = cloister("run", "start", str(path), "--preset", "chat", code=2).stderr
    assert "only one" in told
    path.write_text("train:\n  epochs: none\n")
    assert "epochs" in cloister("run", "start", str(path), code=2).stderr
    named = ("--name", "n", "--dataset", "d", "--base", "b")
    for wrong in ("nonsense=1", "lora.rank=none", "max_grad_norm=.inf"):
        told = cloister("run", "start", *named, "--set", wrong, code=2).stderr
        assert wrong.partition("=")[0] in told, "what a plan advises can be started as it is written"


def test_presets_are_listed_and_printed(cloister: Shell) -> None:
    assert {item["name"] for item in cloister.json("run", "presets")} >= {"domain", "extraction"}
    assert "rslora" in cloister("run", "presets", "domain").stdout
    cloister("run", "presets", "no", code=3)


def test_what_goes_on_from_a_run_is_kept_and_asked_as_it_was(tmp_path: Path) -> None:
    """Its adapter was learnt on a base in that arithmetic and in that template; neither changes unsaid."""
    train = TrainConfig(method="lora", template="chatml", lora=LoraConfig(rank=4, alpha=8), epochs=9)
    before = Run.model_construct(base="bm-0123456789ab", train=train)

    same = train.lora.model_copy(update={"dropout": 0.1})

    def asked(text: str, form: LoraConfig = same, **options: str) -> TrainConfig:
        path = tmp_path / "run.yaml"
        path.write_text(f"name: n\ndataset: d\nfrom_run: r\n{text}")
        request = run_request(
            (path, None, None),
            train={"method": None, "template": None, "lora": {"dropout": 0.1}, **options},
            lora={},
            named={},
            evaluate=None,
            max_new_tokens=None,
            earlier=lambda reference: before,
        )
        assert request.base == before.base
        assert request.train.lora == form
        return request.train

    assert (asked("").method, asked("").template, asked("").epochs) == ("lora", "chatml", 3)
    with_file = asked(
        "train: {lora: {rank: 8}}", form=train.lora.model_copy(update={"rank": 8, "dropout": 0.1})
    )
    assert with_file.lora.alpha == 8, (
        "what the file leaves out is as it was; the authority refuses the rank by name"
    )
    assert asked("train: {method: qlora}").method == "qlora"
    assert asked("train: {method: qlora}", method="lora", template="model").template == "model"


def test_a_preset_has_no_say_in_the_form_of_an_adapter_that_is_there() -> None:
    lora = LoraConfig(rank=4, alpha=8)
    before = Run.model_construct(base="bm-0123456789ab", train=TrainConfig(lora=lora))
    request = run_request(
        (None, None, "style"),
        train={},
        lora={},
        named={"name": "n", "dataset": "d", "from_run": "r"},
        evaluate=None,
        max_new_tokens=None,
        earlier=lambda reference: before,
    )
    assert request.train.lora == lora
