"""Results as commands print them: sentences whole on a narrow terminal, figures in their units."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from datetime import UTC, datetime

import pytest

from cloister.api import Job, Run, TrainConfig
from cloister.cli import curves
from cloister.cli.output import tell
from cloister.shown import figure

SENTENCE = (
    "Neither can do the task (2.0% and 3.0%): the run has not learnt it. `cloister evaluate errors` shows what it "
    "answers; more epochs, another learning rate or a larger base may help."
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [24, 40, 66, 80])
def test_a_sentence_is_wrapped_between_words_and_a_command_stays_in_one_piece(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with redirect_stdout(Terminal()) as out:
        tell(SENTENCE)
    lines = out.getvalue().splitlines()
    assert " ".join(lines) == SENTENCE and all(len(line) <= max(width, 26) for line in lines)
    assert any("`cloister evaluate errors`" in line for line in lines)


def test_a_sentence_that_is_piped_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell(SENTENCE)
    assert capsys.readouterr().out == SENTENCE + "\n"


def test_large_figures_are_written_out() -> None:
    told = [figure(one) for one in (0.0002, 0.4617, 189.94, 1016.4, 12345.6, 999999.7)]
    assert told == ["0.0002", "0.4617", "189.9", "1016", "12346", "1000000"]
    assert [figure(one, 3) for one in (0.04, 99.95, 999.7, 1234)] == ["0.04", "100", "1000", "1234"]


def test_what_came_of_a_run_is_told_in_units() -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    result = {"steps": 4, "seconds": 4000.0, "peak_bytes": 962437120, "tokens_per_s": 20480.5}
    job = Job.model_validate(
        {
            "job_id": "j",
            "verb": "train",
            "state": "done",
            "subject": "rn",
            "requested_by": "a",
            "created_at": now,
            "result": result,
            "metrics": {"loss": 0.1},
        }
    )
    made_of = {"dataset": "ds-1", "base": "bm-1", "holdout": None}
    run = Run.model_validate(
        {
            "run_id": "rn",
            "name": "r",
            **made_of,
            "train": TrainConfig(),
            "evaluate": None,
            "created_at": now,
            "created_by": "a",
            "train_job": job,
        }
    )
    told = {name: curves._shown(value, name) for name, value, _ in curves._results(run, run)}
    assert (
        told["peak bytes"] == "917.9 MiB" and told["seconds"] == "1h06m" and told["tokens per s"] == "20480"
    )
    assert told["state"] == "train done", "its last figures stand in lines of their own"
