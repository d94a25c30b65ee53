"""What `dataset report`, `scan` and `curve` and `run show` print says what to do next, and nothing false."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.api import DatasetReport, LengthFigures, PersonalFigures
from cloister.cli import dataset_view, learning, run_shown
from cloister.errors import Denied, InvalidInput

LENGTHS = LengthFigures(total=90, shortest=9, longest=40, median=20, p95=39, p99=40, histogram=[(40, 3)])
REPORT = DatasetReport(rows=3, train_rows=2, holdout_rows=1, task="chat", characters=LENGTHS)


def test_a_report_without_a_base_says_what_one_adds(capsys: pytest.CaptureFixture[str]) -> None:
    dataset_view._print_report(REPORT)
    assert "With `--base BASE` tokens are counted" in capsys.readouterr().out
    counted = {"tokens": LENGTHS, "supervised_tokens": 30, "lost": {"is longer than 20 tokens": 1}}
    dataset_view._print_report(
        REPORT.model_copy(update={**counted, "first_lost": {"is longer than 20 tokens": [2]}})
    )
    told = capsys.readouterr().out
    assert "--base" not in told and "30 of the tokens are learnt" in told
    assert "refused: is longer than 20 tokens" in told, "the run is refused: no row is lost on the way"


@pytest.mark.parametrize(
    "options", [{"base": "small"}, {"max_length": 20}, {"loss_on": "last"}, {"personal": True}, {"every": 2}]
)
def test_the_last_report_is_not_shown_as_what_was_asked_for_now(options: dict[str, Any]) -> None:
    given = {"base": None, "max_length": None, "template": None, "loss_on": None, **options}
    with pytest.raises(InvalidInput, match="as it was made"):
        dataset_view.report("claims", **given, last=True)


def test_a_scan_that_found_something_says_what_takes_it_out(capsys: pytest.CaptureFixture[str]) -> None:
    found = PersonalFigures(looked_at=3, rows=1, found={"email": {"user": 1}})
    dataset_view._print_personal(found, 3)
    assert "makes one without what was found" in capsys.readouterr().out
    dataset_view._print_personal(found.model_copy(update={"rows": 0, "found": {}}), 3)
    told = capsys.readouterr().out
    assert "None was found." in told and "derive" not in told


@pytest.mark.parametrize(("done", "told"), [(1, "Of 2 runs 1 have no result"), (2, "")])
def test_a_curve_says_that_runs_are_still_to_come(
    done: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = {"value": 2.0, "low": None, "high": None}
    learning._print(
        {"metric": "loss", "sizes": [{"rows": 50, "asked": 2, "runs": done, "loss": loss}], "sentences": []}
    )
    shown = capsys.readouterr().out
    assert told in shown and ("no result" in shown) == bool(told)


def test_settings_are_shown_as_a_run_file_says_them() -> None:
    assert [run_shown._setting(one) for one in (None, True, 3.0, 2e-4, 16, "auto")] == [
        *("-", "true", "3", "0.0002", "16", "auto")
    ]


def test_what_this_account_may_not_see_is_shown_by_its_id() -> None:
    def denied(reference: str) -> None:
        raise Denied("not for you")

    assert run_shown.named(denied, "ds-1") == "ds-1"  # type: ignore[arg-type]
