"""Numbers and times in words."""

from __future__ import annotations

import pytest

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
