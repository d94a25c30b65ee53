"""The table of lines: the cursor stays on its line, and only what is in sight and has changed is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from console_world import console, until
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import NOW, Recorded
from rich.text import Text
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.strip import Strip

from cloister.console.app import ConsoleApp
from cloister.console.widgets.rows import Line, Rows


class Table(App[None]):
    """Rows alone."""

    ENABLE_COMMAND_PALETTE = False

    def compose(self) -> ComposeResult:
        yield Rows(("name", "count"))

    @property
    def rows(self) -> Rows:
        return self.query_one(Rows)

    @property
    def lines(self) -> list[str]:
        return [
            "".join(one.text for one in line).rstrip() for line in self.screen._compositor.render_strips()
        ]


def line(key: str, count: int = 0) -> Line:
    return Line(key, (Text(key), Text(str(count))))


def walk(steps: Callable[[Table, Pilot[None]], Awaitable[None]]) -> None:
    async def whole() -> None:
        app = Table()
        async with app.run_test(size=(40, 10)) as pilot:
            app.rows.focus()
            await steps(app, pilot)

    asyncio.run(whole())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The lines that were drawn, each time that one was."""
    told: list[int] = []
    render = Rows.render_line

    def counted(self: Rows, y: int) -> Strip:
        told.append(y)
        return render(self, y)

    monkeypatch.setattr(Rows, "render_line", counted)
    yield told


def test_only_what_is_in_sight_is_drawn_and_only_what_changed_again(drawn: list[int]) -> None:
    async def steps(app: Table, pilot: Pilot[None]) -> None:
        app.rows.show_lines([line(f"n{number:05}") for number in range(9_000)])
        await pilot.pause()
        assert set(drawn) <= set(range(10))
        assert app.lines[1].split() == ["n00000", "0"]
        drawn.clear()
        app.rows.show_lines([line(f"n{number:05}", int(number in (3, 4_000))) for number in range(9_000)])
        await pilot.pause()
        assert drawn == [4] and app.lines[4].split() == ["n00003", "1"]
        drawn.clear()
        app.rows.show_lines([line(f"n{number:05}", int(number in (3, 4_000))) for number in range(9_000)])
        await pilot.pause()
        assert drawn == []

    walk(steps)


def test_the_cursor_moves_and_the_lines_with_it() -> None:
    async def steps(app: Table, pilot: Pilot[None]) -> None:
        app.rows.show_lines([line(f"n{number}") for number in range(100)])
        await pilot.press("down", "j", "down", "k")
        assert app.rows.chosen is not None and app.rows.chosen.key == "n2"
        await pilot.press("end")
        await pilot.pause()
        assert app.rows.chosen.key == "n99" and app.lines[9].split() == ["n99", "0"]
        await pilot.press("pageup")
        assert app.rows.chosen.key == "n90"
        await pilot.press("home", "up")
        await pilot.pause()
        assert app.rows.chosen.key == "n0" and app.lines[:2] == [" name  count", " n0    0"]

    walk(steps)


def test_wide_characters_keep_the_columns() -> None:
    async def steps(app: Table, pilot: Pilot[None]) -> None:
        app.rows.show_lines([Line("a", (Text("界界界"), Text("1"))), Line("b", (Text("b"), Text("2")))])
        await pilot.pause()
        assert app.lines[1] == " 界界界  1" and app.lines[2] == " b       2"

    walk(steps)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=25, unique=True), min_size=1, max_size=6), st.data())
def test_the_cursor_stays_on_its_line_whatever_comes_and_goes(
    shown: list[list[int]], data: st.DataObject
) -> None:
    async def steps(app: Table, pilot: Pilot[None]) -> None:
        for keys in shown:
            before = app.rows.chosen
            app.rows.show_lines([line(f"n{key}") for key in keys])
            await pilot.pause()
            chosen = app.rows.chosen
            assert (chosen is None) == (not keys)
            if before is not None and before.key in {f"n{key}" for key in keys}:
                assert chosen is not None and chosen.key == before.key
            if chosen is not None:
                assert any(one.split()[:1] == [chosen.key] for one in app.lines[1:])  # it is in sight
                app.rows.move_cursor(data.draw(st.integers(0, len(keys) - 1)))
                await pilot.pause()

    walk(steps)


@pytest.mark.parametrize(
    ("place", "first", "second"),
    [("1", "alert:disk-low", "go:models/approvals"), ("2", "ds-cccccccccccc 1", "ds-llllllllllll 1")],
)
def test_keys_go_on_after_a_filter_that_let_nothing_through(place: str, first: str, second: str) -> None:
    client = Recorded()

    async def steps() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press(place)
            await until(app, lambda _: chosen(app) == first)
            await pilot.press("slash", "x", "0")
            await until(app, lambda text: "No line holds x0" in text)
            await pilot.press("escape")
            await until(app, lambda text: "No line holds" not in text)
            await until(app, lambda _: isinstance(app.focused, Rows))
            await pilot.press("home", "down")
            assert chosen(app) == second

    asyncio.run(steps())
    client.close()


def chosen(app: ConsoleApp) -> str | None:
    """The key of the line under the cursor."""
    line = app.place.query_one(Rows).chosen if app.place is not None else None
    return line.key if line is not None else None


def test_what_is_cut_off_beside_the_scroll_bar_is_not_gone_unseen() -> None:
    async def steps(app: Table, pilot: Pilot[None]) -> None:
        long = Line(
            "long", (Text("long"), Text("x" * 33))
        )  # all but its last column, which the scroll bar takes
        app.rows.show_lines([long])
        await pilot.pause()
        assert app.lines[1].endswith("x" * 33)
        app.rows.show_lines([long, *(line(f"l{number}") for number in range(20))])
        await pilot.pause()
        assert app.rows.show_vertical_scrollbar
        assert "x…" in app.lines[1] and "x" * 33 not in app.lines[1]

    walk(steps)


def test_a_column_is_called_otherwise() -> None:
    async def steps(app: Table, pilot: Pilot[None]) -> None:
        app.rows.show_lines([line("one", 1)])
        app.rows.head(("a longer name", "count"))
        await pilot.pause()
        assert app.lines[:2] == [" a longer name  count", " one            1"]

    walk(steps)
