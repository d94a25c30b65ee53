"""A screen with a number: the frame, the keys of its scope, a filter. What stands in it is each screen's own.

It shows a picture and does actions by calling the application; it never asks the authority itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget
from textual.widgets import Input

from cloister.console.actions import ACTIONS, EVERYWHERE
from cloister.console.paint import outside, styled
from cloister.console.painted import Painted
from cloister.console.picture import Picture
from cloister.console.widgets.entry import Entry
from cloister.console.widgets.frame import KeyBar, Spoken, TopBar, Words
from cloister.console.widgets.rows import Line, Rows

if TYPE_CHECKING:
    from cloister.console.app import ConsoleApp


FEW = 12
"""So many lines leave room for what is known of one below them, on the lowest screen."""


CONNECTING = (
    "Connecting … An appliance of your own that does not run yet is started, which takes some seconds."
)


def bindings(scope: str) -> list[BindingType]:
    """The registry's keys of one scope."""
    return [
        Binding(action.key, f"app.perform('{action.id}')", action.label, show=False)
        for action in ACTIONS
        if scope in action.scopes and action.key != "enter"
    ]


class Place(Painted[None]):
    """`scope` is its name in the registry, `needs` the shelves that it shows."""

    scope: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(EVERYWHERE),
        Binding("ctrl+g", "app.perform('help')", "help", show=False, priority=True),  # also from the filter
    ]

    def __init__(self) -> None:
        super().__init__()
        self.word = ""

    @property
    def console(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar()
        yield from self.body()
        field = Entry(placeholder="only lines with …", id="filter", select_on_focus=False, compact=True)
        field.display = False
        yield field
        yield Spoken()
        yield KeyBar(self.scope)

    def body(self) -> Iterable[Widget]:
        raise NotImplementedError

    def show(self, picture: Picture) -> None:
        """Show what is known now."""
        raise NotImplementedError

    def sift(self) -> None:
        """Show what the filter's word lets through."""
        self.show(self.console.picture)

    def on_screen_resume(self) -> None:
        self.console.entered(self)

    # --- the filter ---------------------------------------------------------------------------

    def do_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)  # at once: what is typed right behind is meant for it

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter":
            self.word = event.value
            self.sift()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            event.input.display = bool(event.value)
            self.focus_content()

    def do_back(self) -> None:
        """One step back: out of the filter first; then what was said goes."""
        field = self.query_one("#filter", Input)
        if field.display:
            field.display = False
            field.value = ""
            self.set_focus(None)  # at once: what is typed right behind is not meant for it
            self.focus_content()
        else:
            self.console.hush(read=True)

    def focus_content(self) -> None:
        for rows in self.query(Rows):
            if rows.display:
                self.set_focus(rows)
                return

    def chosen_id(self) -> str | None:
        """What `y` copies."""
        return None


class ListPlace(Place):
    """Lines, and what is known of the chosen one: beside them where that is wide enough, below them where they are few;
    opened, in their stead."""

    columns: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[Mapping[str, int]] = {}
    """Columns of text from outside, which give way to the others down to that width."""
    empty: ClassVar[str] = "Nothing yet."

    def __init__(self) -> None:
        super().__init__()
        self._all: list[Line] = []
        self._made: dict[str, tuple[tuple[object, ...], Line]] = {}
        self._made_before = self._made

    def lines(self, picture: Picture) -> list[Line]:
        raise NotImplementedError

    def line(
        self,
        key: str,
        of: tuple[object, ...],
        cells: Callable[[], tuple[Text, ...]],
        copied: str | None = None,
    ) -> Line:
        """The line of that key, where there may be many: the same as before while what it is made `of` is, which is
        all that its cells tell of."""
        made = self._made_before.get(key)
        if made is None or made[0] != of:
            made = (of, Line(key, cells(), copied))
        self._made[key] = made
        return made[1]

    def about(self, key: str, picture: Picture) -> Text:
        raise NotImplementedError

    def side(self) -> Iterable[Widget]:
        """What stands beside the lines."""
        with VerticalScroll(id="side"):
            yield Words(id="about")

    def body(self) -> Iterable[Widget]:
        with Horizontal(id="content"):
            yield Rows(self.columns, self.least)
            yield Words(id="empty")
            yield from self.side()

    def on_mount(self) -> None:
        self.focus_content()

    def show(self, picture: Picture) -> None:
        self._made_before, self._made = self._made, {}
        self._all = self.lines(picture)
        self.sift()

    def sift(self) -> None:
        """Show those of the lines that hold the filter's word: they are made once, not for each letter of it."""
        picture = self.console.picture
        lines = [line for line in self._all if line.holds(self.word)] if self.word else self._all
        self.query_one(Rows).show_lines(lines)
        if lines:
            self.call_after_refresh(self._hold_focus)
        self.set_class(not lines, "-empty")
        self.set_class(len(lines) > FEW, "-long")
        if not lines:
            self.query_one("#empty", Words).tell(self._why_empty(picture))
            self.remove_class("-open")
        self._show_about(picture)

    def watch_focused(self, focused: Widget | None) -> None:
        if focused is None:
            self.call_after_refresh(self._hold_focus)

    def _hold_focus(self) -> None:
        """Keys are for the lines again, which are hidden while there is none, and a filter after it was left."""
        if self.focused is None:
            self.focus_content()

    def _why_empty(self, picture: Picture) -> Text:
        unread = [name for name in self.needs if name not in picture.read]
        if picture.away is not None and unread:
            return Text("The authority is away, nothing was read yet.\n") + outside(picture.away)
        for name in self.needs:
            if name in picture.refused:
                return styled("Not shown: ", "bold red") + outside(picture.refused[name])
        if unread:
            words = "Reading …" if picture.status is not None else CONNECTING
            return Text(words, "dim")
        if self.word:
            return Text("No line holds ") + outside(self.word) + Text(". Esc shows all of them.")
        return self.greeting(picture)

    def greeting(self, picture: Picture) -> Text:
        """What an empty screen says."""
        return Text(self.empty)

    def _show_about(self, picture: Picture) -> None:
        line = self.chosen
        text = Text("") if line is None else self.about(line.key, picture)
        self.query_one("#about", Words).tell(text)

    @property
    def chosen(self) -> Line | None:
        return self.query_one(Rows).chosen

    def chosen_id(self) -> str | None:
        line = self.chosen
        return (line.copied or line.key) if line is not None else None

    def on_rows_highlighted(self) -> None:
        self._show_about(self.console.picture)

    def on_rows_selected(self) -> None:
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
