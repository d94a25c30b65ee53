"""Tables on a terminal: nothing of a cell is lost, however narrow it is."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.cli.output import print_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(columns: list[str], rows: list[list[str]], width: int) -> list[str]:
    """The lines as they are seen."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(Terminal()) as out:
        patch.setenv("COLUMNS", str(width))
        print_table(columns, rows, empty="")
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).splitlines()


def test_a_table_that_is_too_wide_goes_on_below_under_its_first_column() -> None:
    heading = ["asked how", "field accuracy", "tuned is better by", "JSON valid", "alike again"]
    one = "100.0% [83.2%, 100.0%]"
    rows = [["base, asked well", one, "0.0 points [-16.8, 16.8]", one, one], ["tuned", one, "-", one, one]]
    lines = printed(heading, rows, 80)
    assert all(len(line.rstrip()) <= 80 for line in lines)
    shown = "\n".join(lines)
    assert shown.count(one) == 6 and shown.count("asked how") == shown.count("base, asked well") == 2
    assert all(name in shown for name in heading)
    wide = printed(heading, rows, 200)
    assert "\n".join(wide).count("asked how") == 1 and len(wide) == 4


def test_a_last_column_of_words_is_wrapped_and_leaves_the_table_in_one_piece() -> None:
    lines = printed(["name", "state"], [["a-name-that-is-long", "train running · loss 0.8164"]], 40)
    assert sum("name" in line for line in lines) == 2 and all(len(line.rstrip()) <= 40 for line in lines)


@given(widths=st.lists(st.integers(1, 30), min_size=2, max_size=7), room=st.integers(64, 100))
def test_no_cell_is_cropped(widths: list[int], room: int) -> None:
    cells = ["".join(chr(97 + (at + n) % 26) for n in range(width)) for at, width in enumerate(widths)]
    lines = printed([""] * (len(cells) - 1) + ["x"], [cells], room)
    assert all(len(line.rstrip()) <= room for line in lines)
    assert all(any(cell in line for line in lines) for cell in cells)


def test_characters_of_two_columns_are_counted_so() -> None:
    cells = ["支" * 18, "払" * 18, "金" * 10]
    lines = printed(["", "", "x"], [cells], 80)
    assert all(any(cell in line for line in lines) for cell in cells)
