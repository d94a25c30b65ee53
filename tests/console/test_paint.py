"""How things look: legible on a light ground as on a dark one, in the terminal's own colours."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.style import Style

from cloister.console.paint import GLYPHS, facts, hung, marked, number, outside, stack
from cloister.console.widgets.frame import BANNERS

PALE = {"yellow", "green", "cyan"}
"""What cannot be read as a word on white."""


@pytest.mark.parametrize("mood", GLYPHS)
def test_a_word_beside_a_glyph_is_legible_on_any_ground(mood: str) -> None:
    glyph, word = _segments(mood)
    assert glyph[0] == GLYPHS[mood] and glyph[1] != Style()
    assert word[0] == " word"
    assert word[1].color is None or word[1].color.name not in PALE


def _segments(mood: str) -> list[tuple[str, Style]]:
    found = [(one.text, one.style or Style()) for one in marked(mood, "word").render(Console())]
    return [one for one in found if one[0].strip()]


@pytest.mark.parametrize("colour", BANNERS)
def test_a_banner_is_legible_on_any_ground_and_without_colours(colour: str) -> None:
    style = Style.parse(BANNERS[colour])
    assert style.reverse
    assert colour == "grey" or (style.color is not None and style.bgcolor is not None)


def test_a_long_fact_goes_on_below_its_value() -> None:
    text = stack(
        facts([("cause", "one two three four five six"), ("n", "x")]), outside("a line of another kind")
    )
    assert hung(text, 24, Console()).plain.split("\n") == [
        "cause  one two three",
        "       four five six",
        "n      x",
        "",
        "a line of another kind",
        "",
    ]
    digest = facts([("sha", "0123456789" * 4)])
    assert (
        hung(digest, 24, Console()).plain == "sha  01234567890123\n     45678901234567\n     890123456789\n"
    )
    assert hung(text, 10, Console()).plain == text.plain, "too narrow for two columns"


def test_large_figures_are_written_out() -> None:
    told = [number(one) for one in (0.00012, 189.94, 2710.0, 9999.7, 12345.6, 1234567, None)]
    assert told == ["0.00012", "189.9", "2710", "10,000", "12,346", "1,234,567", "-"]
