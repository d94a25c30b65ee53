"""Dialogs: a text to read, a thing to confirm by its name, a form to fill in. They decide nothing.

Text from outside never writes a dialog's own words: it stands in `Text` objects, made visible, below a title of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from cloister.console.paint import outside, styled


class Tell(ModalScreen[None]):
    """A title, a text that scrolls, closed by Esc or q."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "close", "close")]

    def __init__(self, title: str, text: Text, *, copied: str | None = None) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._copied = copied

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Static(Text(self._title), classes="title", markup=False)
            with VerticalScroll():
                yield Static(self._text, markup=False)
            keys = "Esc close   ↑↓ scroll" + ("   y copy" if self._copied else "")
            yield Static(Text(keys, "dim"), classes="keys", markup=False)

    def key_y(self) -> None:
        if self._copied:
            self.app.copy_to_clipboard(self._copied)

    def action_close(self) -> None:
        self.dismiss(None)


class Confirm(ModalScreen[bool]):
    """What an action touches, and the object's name to be typed. Esc changes nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave")]

    def __init__(self, title: str, touched: Text, name: str, doing: str) -> None:
        super().__init__()
        self._title = title
        self._touched = touched
        self._name = name
        self._doing = doing

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall danger"):
            yield Static(Text(self._title), classes="title", markup=False)
            with VerticalScroll(can_focus=False):
                yield Static(self._touched, markup=False)
            ask = Text("Type ") + outside(self._name, 80, "bold") + Text(f" and Enter to {self._doing}:")
            yield Static(ask, markup=False)
            yield Input(id="name", compact=True)
            yield Static(Text("Esc: nothing is changed", "dim"), classes="keys", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._name:
            self.dismiss(True)
        else:
            self.query_one(".keys", Static).update(
                Text("× that is not its name; Esc: nothing is changed", "bold red")
            )

    def action_leave(self) -> None:
        self.dismiss(False)


@dataclass(frozen=True)
class Field:
    """One line of a form. `choices` makes it a choice; `secret` hides what is typed."""

    name: str
    label: str
    value: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()
    secret: bool = False
    needed: bool = False


class Form(ModalScreen[dict[str, str] | None]):
    """Fields below each other; Enter goes on, and after the last one the form is done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave"),
        Binding("down", "app.focus_next", "next"),
        Binding("up", "app.focus_previous", "previous"),
    ]

    def __init__(self, title: str, fields: Sequence[Field], *, note: Text | None = None) -> None:
        super().__init__()
        self._title = title
        self._fields = tuple(fields)
        self._note = note

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._title), classes="title", markup=False)
            with VerticalScroll(can_focus=False, classes="fields"):
                if self._note is not None:
                    yield Static(self._note, markup=False)
                yield from self.lines()
            yield from self.beneath()
            yield Static(
                Text("Tab next   Enter on the last field: do it   Esc: leave", "dim"),
                classes="keys",
                markup=False,
            )

    def lines(self) -> ComposeResult:
        """The fields, each with its label."""
        for field in self._fields:
            yield Static(styled(field.label, "bold") + Text(f"  {field.help}", "dim"), markup=False)
            yield self.entry(field)

    @staticmethod
    def entry(field: Field) -> Widget:
        """What a field is filled in with."""
        if not field.choices:
            return Input(field.value, id=f"field-{field.name}", password=field.secret, compact=True)
        return Select(
            [(Text(outside(choice, 60).plain), choice) for choice in field.choices],
            value=field.value or field.choices[0],
            allow_blank=False,
            id=f"field-{field.name}",
            compact=True,
        )

    def beneath(self) -> Iterable[Widget]:
        """What stands between the fields and the keys."""
        return ()

    def on_mount(self) -> None:
        self.query_one(f"#field-{self._fields[0].name}").focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id != f"field-{self._fields[-1].name}":
            self.app.action_focus_next()
            return
        values = self._values()
        for field in self._fields:
            if field.needed and not values[field.name]:
                self.query_one(".keys", Static).update(Text(f"× {field.label}: is needed", "bold red"))
                self.query_one(f"#field-{field.name}").focus()
                return
        self.dismiss(values)

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
