"""Numbers and times in words."""

from __future__ import annotations

import pytest

from cloister.errors import InvalidInput
from cloister.shown import duration


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "?"),
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (90_061, "25h01m"),
        (-0.4, "0s"),
        (-413.0, "0s"),
        (-1e9, "0s"),
    ],
)
def test_a_duration_is_told_in_two_units_and_never_below_nought(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told


def test_an_error_in_one_line_ends_its_sentences() -> None:
    told = [
        str(InvalidInput(message, where="rows.csv", remedy="Name it."))
        for message in ("is a folder", "Is it one?")
    ]
    assert told == ["rows.csv: is a folder. Name it.", "rows.csv: Is it one? Name it."]
    assert str(InvalidInput("is a folder", where="rows.csv")) == "rows.csv: is a folder"
