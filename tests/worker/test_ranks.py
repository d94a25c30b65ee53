"""Two processes share a run: the losses are those of one, cut off and resumed too; keys go to whom they are for."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import Any

import msgspec
import pytest
import torch
from breaking_rank import breaking

import tiny
import worker_jobs
from cloister.errors import CloisterError, Interrupted
from cloister.models import load
from cloister.training import recipe
from cloister.vault import ObjectReader
from cloister.worker import ranks
from cloister.worker.verbs import train
from worker_jobs import Recorder

SETTINGS = tiny.config(learning_rate=1e-2, micro_batch_size=4, eval_every=3, checkpoint_every=3)


def job(stored: Any, out: Any, processes: int, **more: Any) -> Any:
    settings = SETTINGS.model_copy(update={"processes": processes})
    inputs = {"dataset": stored.dataset, "base": stored.base}
    return worker_jobs.job("train", settings, out, inputs=inputs, threads=processes, **more)


def history(out: Any) -> tuple[list[float], list[Any]]:
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        document = msgspec.json.decode(reader.read("history.json"))
    return document["losses"], document["holdout_losses"]


@pytest.fixture(autouse=True)
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_SANDBOX", "none")


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base in float32, in this process and in the others."""
    defaults = load.load_base.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "dtype", torch.float32)
    monkeypatch.setattr(ranks, "_MODULE", "float32_rank")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_also_cut_off_and_resumed(
    stored: Any, tmp_path: Path, in_float32: None
) -> None:
    one, two, cut = (worker_jobs.output(tmp_path, "adapter", "ad") for _ in range(3))
    train.run(job(stored, one, 1), Recorder())
    train.run(job(stored, two, 2), Recorder())
    wanted, wanted_holdout = history(one)
    got, got_holdout = history(two)
    assert max(abs(a - b) for a, b in zip(wanted, got, strict=True)) < 1e-5
    assert [step for step, _ in got_holdout] == [step for step, _ in wanted_holdout]
    assert max(abs(a[1] - b[1]) for a, b in zip(wanted_holdout, got_holdout, strict=True)) < 1e-5

    asked = iter(range(12))
    with pytest.raises(Interrupted):
        train.run(job(stored, cut, 2), Recorder(stop_when=lambda recorder: next(asked, None) is None))
    assert any((Path(cut.path) / "checkpoints").iterdir())
    train.run(job(stored, cut, 2, resume=True), Recorder())
    assert history(cut) == history(two)


@pytest.mark.slow
def test_two_processes_keep_what_was_good_of_a_run_that_goes_wrong(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_MODULE", "breaking_rank")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(recipe._Run, "take_step", breaking(recipe._Run.take_step))
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    values = train.run(job(stored, out, 2), Recorder())
    assert values["failure"]["code"] == "diverged" and values["best_step"] == 6
    assert len(values["peak_bytes_by_process"]) == 2, "both ended in order"
    with ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as reader:
        reader.check(full=True)


@pytest.mark.slow
def test_another_process_that_is_killed_cuts_the_run_off(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    start = ranks._start
    monkeypatch.setattr(ranks, "_start", lambda place: begun.append(start(place)) or begun[-1])

    def kill(recorder: Recorder) -> bool:
        if recorder.progressed[-1][:2] == ("train", 4):
            begun[0].kill()
        return False

    out = worker_jobs.output(tmp_path, "adapter", "ad")
    with pytest.raises(Interrupted, match="process 2 of 2 was killed"):
        train.run(job(stored, out, 2), Recorder(stop_when=kill))
    assert begun[0].returncode == -9


@pytest.mark.slow
def test_one_that_dies_is_told_of_also_where_the_first_waits_for_something_else(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    start = ranks._start
    monkeypatch.setattr(ranks, "_start", lambda place: begun.append(start(place)) or begun[-1])
    monkeypatch.setattr(ranks, "NOTICED_S", 0.2)
    told: Queue[CloisterError] = Queue()
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    with ranks.gang(job(stored, out, 2), 2, on_fault=told.put):
        begun[0].kill()
        assert "ocess 2 of 2" in told.get(timeout=120).message


def test_no_key_is_in_what_another_process_is_started_with(stored: Any, tmp_path: Path) -> None:
    out = worker_jobs.output(tmp_path, "adapter", "ad")
    bare = ranks._without_keys(job(stored, out, 2))
    assert all(grant.key is None for grant in (*bare.inputs.values(), bare.output))
    assert out.key not in bare.model_dump_json() and stored.dataset.key not in bare.model_dump_json()
