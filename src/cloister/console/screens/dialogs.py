"""Dialogs: a text to read, a thing to confirm by its name, a form to fill in. They decide nothing.

Text from outside never writes a dialog's own words: it stands in `Text` objects, made visible, below a title of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Input, OptionList, Select, Static

from cloister.console.explaining import about_confirming, about_field
from cloister.console.paint import marked, outside
from cloister.console.painted import Dialog
from cloister.console.screens.explained import Explained
from cloister.console.widgets.columns import named
from cloister.console.widgets.entry import Entry
from cloister.console.widgets.frame import Words
from cloister.shown import LONGEST, visible

TITLE = 150
"""Columns of a title, which may have a name in it: two lines."""


class Tell(Dialog[None]):
    """A title, a text that scrolls, closed by Esc, q or Enter; one that is shown this `once`, by Esc alone."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "close"),
        Binding("q,enter", "close_read", "close"),
    ]

    def __init__(self, title: str, text: Text, *, copied: str | None = None, once: bool = False) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._copied = copied
        self._once = once

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Static(outside(self._title, TITLE), classes="title", markup=False)
            with VerticalScroll():
                yield Words(id="words")
            keys = ("y copy   " if self._copied else "") + "Esc close   ↑↓ scroll"
            yield Static(Text(keys, "dim"), classes="keys", markup=False)

    def on_mount(self) -> None:
        self.query_one("#words", Words).tell(self._text)

    def key_y(self) -> None:
        if self._copied:
            self.app.copy_to_clipboard(self._copied)
            sent = marked("good", "sent to your terminal's clipboard") + Text(
                "   Esc close   ↑↓ scroll", "dim"
            )
            self.query_one(".keys", Static).update(sent)

    def action_close(self) -> None:
        self.dismiss(None)

    def action_close_read(self) -> None:
        if not self._once:
            self.dismiss(None)


class Confirm(Explained[bool]):
    """What an action touches, and the object's name to be typed. Esc changes nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave"),
        Binding("up", "roll(-1)", "up"),
        Binding("down", "roll(1)", "down"),
        Binding("pageup", "roll(-8)", "page up"),
        Binding("pagedown", "roll(8)", "page down"),
    ]
    KEYS = "↑↓ PgUp PgDn scroll   ctrl+g help   Esc: nothing is changed"

    def __init__(self, title: str, touched: Text, name: str, doing: str) -> None:
        super().__init__()
        self._title = title
        self._touched = touched
        self._name = name
        self._doing = doing

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall danger"):
            yield Static(outside(self._title, TITLE), classes="title", markup=False)
            with VerticalScroll(can_focus=False):
                yield Words(id="words")
            ask = Text("Type ") + outside(self._name, 80, "bold") + Text(f" and Enter to {self._doing}:")
            yield Static(ask, markup=False)
            yield Entry(id="name", select_on_focus=False, compact=True)
            yield Static(Text(self.KEYS, "dim"), classes="keys", markup=False)

    def on_mount(self) -> None:
        self.query_one("#words", Words).tell(self._touched)
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._name:
            self.dismiss(True)
        else:
            self.query_one(".keys", Static).update(
                Text("× that is not its name; Esc: nothing is changed", "bold red")
            )

    def explanation(self) -> tuple[str, Text]:
        return self._title, about_confirming(self._doing)

    def action_roll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_leave(self) -> None:
        self.dismiss(False)


@dataclass(frozen=True)
class Field:
    """One line of a form. `choices` makes it a choice; `secret` hides what is typed; `number` reads one. What is not
    `kept` stands as it was when the form comes again after something went wrong. The cursor begins where it says so."""

    name: str
    label: str
    value: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()
    secret: bool = False
    needed: bool = False
    number: Callable[[str], float] | None = None
    kept: bool = True
    begins: bool = False

    def problem(self, value: str) -> str | None:
        """What is wrong with what was filled in, if anything."""
        if self.needed and not value:
            return "is needed"
        if self.number is None or not value:
            return None
        try:
            self.number(value)
        except ValueError:
            return "a whole number goes here" if self.number is int else "a number goes here"
        return None


class Form(Explained[dict[str, str] | None]):
    """Fields below each other; Enter goes on, and after the last one the form is done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave"),
        Binding("down", "app.focus_next", "next"),
        Binding("up", "app.focus_previous", "previous"),
        # Before the field sees them: over a slow line a key and what follows it arrive together, and what is typed
        # after Tab would still go into the field before it.
        Binding("tab", "onward", "next", priority=True),
        Binding("enter", "enter", "next", priority=True),
        Binding("pageup", "end(0)", "first", priority=True),
        Binding("pagedown", "end(-1)", "last", priority=True),
    ]
    BESIDE = "What the fields are about. ↑↓ scroll it."

    def __init__(
        self, title: str, fields: Sequence[Field], *, note: Text | None = None, problem: str | None = None
    ) -> None:
        super().__init__()
        self._title = title
        self._fields = tuple(fields)
        self._note = note
        self._problem = problem
        self._key_told: str | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(outside(self._title, TITLE), classes="title", markup=False)
            with VerticalScroll(can_focus=False, classes="fields"):
                if self._note is not None:
                    yield Static(self._note, markup=False)
                yield from self.lines()
            yield from self.beneath()
            yield Static(classes="keys", markup=False)

    def lines(self) -> ComposeResult:
        """The fields, each with its label."""
        for field in self._fields:
            told = outside(field.label, 80, "bold") + outside(f"  {field.help}", style="dim")
            yield Static(told, markup=False)
            yield self.entry(field)

    @staticmethod
    def entry(field: Field, room: int = 68) -> Widget:
        """What a field is filled in with; a choice has `room` columns, or what a dialog of 80 has."""
        if not field.choices:
            return Entry(field.value, id=f"field-{field.name}", password=field.secret, compact=True)
        labels = named([visible(choice, limit=LONGEST) for choice in field.choices], room)
        return Select(
            [(Text(label), choice) for label, choice in zip(labels, field.choices, strict=True)],
            value=field.value or field.choices[0],
            allow_blank=False,
            id=f"field-{field.name}",
            compact=True,
        )

    def beneath(self) -> Iterable[Widget]:
        """What stands between the fields and the keys."""
        return ()

    def on_mount(self) -> None:
        self.action_end(next((number for number, one in enumerate(self._fields) if one.begins), 0))

    def action_end(self, number: int) -> None:
        self.query_one(f"#field-{self._fields[number].name}").focus()

    def on_descendant_focus(self) -> None:
        """Say what the keys do where the cursor is; once, what is wrong instead."""
        if self.focused is not None and self.focused.id == f"field-{self._fields[0].name}":
            self.call_after_refresh(self.query_one(".fields").scroll_home, animate=False)  # with its label
        self._key_told = None
        if self._problem is not None:
            self._hint(outside(f"× {self._problem}", 300, "bold red"))
            self._problem = None
        elif isinstance(self.focused, Input):
            last = self.focused.id == f"field-{self._fields[-1].name}"
            more = "PgUp first field   " if last else "PgDn last field   "
            self._key_told = self.explains
            more = (more if len(self._fields) > 1 else "") + f"{self._key_told} help   "
            self._hint(Text(f"{'Enter do it' if last else 'Enter next'}   {more}Esc leave", "dim"))
        elif isinstance(self.focused, Select):
            self._hint(Text("Enter choose   Tab next   ? help   Esc leave", "dim"))
        elif isinstance(self.focused, OptionList):
            self._hint(Text("↑↓ Enter choose   Esc as it was", "dim"))
        else:
            self._hint(Text("↑↓ scroll   Tab next   ? help   Esc leave", "dim"))

    def on_input_changed(self) -> None:
        """A question mark is a character once something is typed."""
        if self._key_told not in (None, self.explains):
            self.on_descendant_focus()

    def _hint(self, text: Text) -> None:
        self.query_one(".keys", Static).update(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enter goes on from every field but the last; an open list of choices has both keys for itself."""
        if action == "enter":
            return isinstance(self.focused, Input) and self.focused.id != f"field-{self._fields[-1].name}"
        if action in ("onward", "end"):
            return isinstance(self.focused, Input | Select)
        return super().check_action(action, parameters)

    def explanation(self) -> tuple[str, Text]:
        """What the field is for that has the focus."""
        inside = {one.id for one in self.focused.ancestors_with_self} if self.focused is not None else set()
        field = next((one for one in self._fields if f"field-{one.name}" in inside), None)
        return self._title, about_field(field, self.BESIDE)

    def action_onward(self) -> None:
        self.focus_next()

    def action_enter(self) -> None:
        self.focus_next()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id != f"field-{self._fields[-1].name}":
            return
        values = self._values()
        for field in self._fields:
            problem = field.problem(values[field.name])
            if problem is not None:
                self._wrong(field, problem)
                return
        self.dismiss(values)

    def _wrong(self, field: Field, problem: str) -> None:
        entry = self.query_one(f"#field-{field.name}")
        self._problem = f"{field.label}: {problem}"
        if entry is self.focused:
            self.on_descendant_focus()
        else:
            entry.focus()

    def _values(self) -> dict[str, str]:
        values: dict[str, str] = {}
        for field in self._fields:
            widget = self.query_one(f"#field-{field.name}")
            if isinstance(widget, Input):
                values[field.name] = widget.value if field.secret else widget.value.strip()
            elif isinstance(widget, Select):
                values[field.name] = str(widget.value)
        return values

    def action_leave(self) -> None:
        self.dismiss(None)
