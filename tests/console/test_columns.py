"""Columns that give way, and names shortened to them: no two look alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from cloister.console.widgets.columns import fitted, named, shortened

NAMES = st.sets(st.text("ab1-", min_size=1, max_size=63), max_size=12)


def told(names: set[str], width: int) -> dict[str, str]:
    return dict(zip(names, named([*names], width), strict=True))


@given(NAMES, st.integers(8, 70))
def test_no_two_names_look_alike_and_each_fits(names: set[str], width: int) -> None:
    found = told(names, width)
    assert len(set(found.values())) == len(names)
    for name, short in found.items():
        assert cell_len(short) <= width
        assert (short == name) == (len(name) <= width)


@given(st.sets(st.text("a界\u0301", min_size=1, max_size=40), max_size=6), st.integers(8, 40))
def test_wide_characters_fit_too(names: set[str], width: int) -> None:
    assert all(cell_len(short) <= width for short in told(names, width).values())


def test_a_name_keeps_its_beginning_and_its_end() -> None:
    assert told({"claims-desk-of-the-branch-in-frankfurt"}, 17) == {
        "claims-desk-of-the-branch-in-frankfurt": "claims-d…rankfurt"
    }


def test_names_that_differ_within_show_where() -> None:
    one, other = ("claims-desk-frankfurt-" + number + "-nightly-batches" for number in ("01", "02"))
    assert told({one, other}, 20) == {one: "claims…t-01-nightly…", other: "claims…t-02-nightly…"}


def test_a_shortened_text_keeps_its_looks() -> None:
    text = Text("└─ ", "dim").append("a-name-that-is-long", "bold")
    short = shortened([text.plain], 12)[text.plain].of(text)
    assert short.plain == "└─ a-n…-long"
    assert [
        (short.plain[span.start : span.end], span.style) for span in short.spans if span.style == "bold"
    ] == [
        ("a-n", "bold"),
        ("-long", "bold"),
    ]
    assert short.style == "dim"


@given(st.lists(st.integers(1, 70), min_size=1, max_size=9), st.data())
def test_columns_give_way_no_further_than_they_have_to(widths: list[int], data: st.DataObject) -> None:
    least = data.draw(st.dictionaries(st.integers(0, len(widths) - 1), st.integers(1, 30)))
    room = data.draw(st.integers(1, 200))
    found = fitted(widths, least, room)
    assert all(now == was for at, (was, now) in enumerate(zip(widths, found, strict=True)) if at not in least)
    assert all(min(widths[at], most) <= found[at] <= widths[at] for at, most in least.items())
    if sum(widths) <= room:
        assert found == tuple(widths)
    else:
        narrowest = all(found[at] <= most for at, most in least.items())
        assert sum(found) == room or (narrowest and sum(found) > room)


def test_the_widest_gives_way_first() -> None:
    assert fitted((60, 10, 12), {0: 12, 2: 5}, 60) == (38, 10, 12)
    assert fitted((60, 10, 12), {0: 12, 2: 5}, 30) == (12, 10, 8)
