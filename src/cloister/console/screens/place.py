"""A screen with a number: the frame, the keys of its scope, a filter. What stands in it is each screen's own.

It shows a picture and does actions by calling the application; it never asks the authority itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Static

from cloister.console.actions import ACTIONS, EVERYWHERE
from cloister.console.paint import outside, styled
from cloister.console.picture import Picture
from cloister.console.widgets.frame import KeyBar, Saying, TopBar
from cloister.console.widgets.rows import Line, Rows

if TYPE_CHECKING:
    from cloister.console.app import ConsoleApp


def bindings(scope: str) -> list[BindingType]:
    """The registry's keys of one scope."""
    return [
        Binding(action.key, f"app.perform('{action.id}')", action.label, show=False)
        for action in ACTIONS
        if scope in action.scopes and action.key != "enter"
    ]


class Place(Screen[None]):
    """`scope` is its name in the registry, `needs` the shelves that it shows."""

    scope: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    BINDINGS: ClassVar[list[BindingType]] = bindings(EVERYWHERE)

    def __init__(self) -> None:
        super().__init__()
        self.word = ""

    @property
    def console(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar()
        yield from self.body()
        field = Input(placeholder="only lines with …", id="filter", compact=True)
        field.display = False
        yield field
        yield Saying()
        yield KeyBar(self.scope)

    def body(self) -> Iterable[Widget]:
        raise NotImplementedError

    def show(self, picture: Picture) -> None:
        """Show what is known now."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        self.console.entered(self)

    # --- the filter ---------------------------------------------------------------------------

    def do_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter":
            self.word = event.value
            self.show(self.console.picture)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            event.input.display = bool(event.value)
            self.focus_content()

    def do_back(self) -> None:
        """One step back: out of the filter first."""
        field = self.query_one("#filter", Input)
        if field.display:
            field.display = False
            field.value = ""
            self.focus_content()

    def focus_content(self) -> None:
        for rows in self.query(Rows):
            if rows.display:
                rows.focus()
                return

    def chosen_id(self) -> str | None:
        """What `y` copies."""
        return None


class ListPlace(Place):
    """Lines, and what is known of the chosen one: beside them where there is room, in their stead where not."""

    columns: ClassVar[tuple[str, ...]] = ()
    empty: ClassVar[str] = "Nothing yet."

    def lines(self, picture: Picture) -> list[Line]:
        raise NotImplementedError

    def about(self, key: str, picture: Picture) -> Text:
        raise NotImplementedError

    def side(self) -> Iterable[Widget]:
        """What stands beside the lines."""
        with VerticalScroll(id="side"):
            yield Static(id="about", markup=False)

    def body(self) -> Iterable[Widget]:
        with Horizontal(id="content"):
            yield Rows(self.columns)
            yield Static(id="empty", markup=False)
            yield from self.side()

    def on_mount(self) -> None:
        self.focus_content()

    def show(self, picture: Picture) -> None:
        lines = self.lines(picture)
        if self.word:
            lines = [line for line in lines if line.holds(self.word)]
        rows = self.query_one(Rows)
        rows.show_lines(lines)
        self.set_class(not lines, "-empty")
        if not lines:
            self.query_one("#empty", Static).update(self._why_empty(picture))
            self.remove_class("-open")
        self._show_about(picture)

    def _why_empty(self, picture: Picture) -> Text:
        unread = [name for name in self.needs if name not in picture.read]
        if picture.away is not None and unread:
            return Text(f"The authority is away, nothing was read yet.\n{picture.away}")
        for name in self.needs:
            if name in picture.refused:
                return styled("Not shown: ", "bold red") + outside(picture.refused[name])
        if unread:
            return Text("Reading …", "dim")
        if self.word:
            return Text("No line holds ") + outside(self.word) + Text(". Esc shows all of them.")
        return self.greeting(picture)

    def greeting(self, picture: Picture) -> Text:
        """What an empty screen says."""
        return Text(self.empty)

    def _show_about(self, picture: Picture) -> None:
        line = self.chosen
        text = Text("") if line is None else self.about(line.key, picture)
        self.query_one("#about", Static).update(text)

    @property
    def chosen(self) -> Line | None:
        return self.query_one(Rows).chosen

    def chosen_id(self) -> str | None:
        line = self.chosen
        return (line.copied or line.key) if line is not None else None

    def on_data_table_row_highlighted(self) -> None:
        self._show_about(self.console.picture)

    def on_data_table_row_selected(self) -> None:
        self.console.action_perform("open")

    def do_open(self) -> None:
        if self.chosen is not None:
            self.add_class("-open")
            self.query_one("#side").focus()

    def do_back(self) -> None:
        if self.has_class("-open"):
            self.remove_class("-open")
            self.focus_content()
        else:
            super().do_back()
