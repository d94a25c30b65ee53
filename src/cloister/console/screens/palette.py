"""The command palette: every action of the registry, found by a few letters; what is denied says so."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from cloister.console.actions import ACTIONS, BY_ID, EVERYWHERE, Action
from cloister.console.explaining import about_command
from cloister.console.paint import styled
from cloister.console.picture import Picture
from cloister.console.screens.explained import Explained
from cloister.console.widgets.entry import Entry

NARROW = 110
"""Below so many columns a dialog is as wide as the screen."""


class Palette(Explained[str | None]):
    """Answers the id of an action. What belongs to another screen is named with it, and leads there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave"),
        Binding("down", "move(1)", "down"),
        Binding("up", "move(-1)", "up"),
    ]

    def __init__(self, scope: str, picture: Picture) -> None:
        super().__init__()
        self._scope = scope
        self._picture = picture

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Static(Text("Commands"), classes="title", markup=False)
            yield Entry(placeholder="type a few letters", select_on_focus=False, compact=True)
            options = OptionList(markup=False, compact=True)
            options.can_focus = False
            yield options
            keys = "↑↓ choose   Enter do it   ctrl+g what it does   Esc leave"
            yield Static(Text(keys, "dim"), classes="keys", markup=False)

    def on_mount(self) -> None:
        self._fill("")
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._fill(event.value)

    def on_input_submitted(self) -> None:
        if self._chosen is not None:
            self.dismiss(self._chosen)

    def explanation(self) -> tuple[str, Text]:
        """What the command under the cursor does."""
        action = BY_ID[self._chosen] if self._chosen is not None else None
        return "commands", about_command(action, self._picture)

    @property
    def _chosen(self) -> str | None:
        options = self.query_one(OptionList)
        return None if options.highlighted is None else options.get_option_at_index(options.highlighted).id

    def action_move(self, by: int) -> None:
        options = self.query_one(OptionList)
        options.action_cursor_down() if by > 0 else options.action_cursor_up()

    def action_leave(self) -> None:
        self.dismiss(None)

    def _fill(self, typed: str) -> None:
        words = typed.casefold().split()
        here = [
            action
            for action in sorted(ACTIONS, key=self._rank)
            if action.id != "palette"
            and all(word in f"{action.id} {action.label} {action.help}".casefold() for word in words)
        ]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(self._line(action), action.id) for action in here])
        options.highlighted = 0 if here else None

    def _rank(self, action: Action) -> int:
        """This screen's own first, then what counts everywhere, then what belongs elsewhere."""
        return 0 if self._scope in action.scopes else 1 if EVERYWHERE in action.scopes else 2

    def _is_here(self, action: Action) -> bool:
        return self._scope in action.scopes or EVERYWHERE in action.scopes

    def _line(self, action: Action) -> Text:
        allowed = self._picture.may(action.policy)
        line = styled(f"{action.shown_key:>5} ", "bold" if allowed else "dim")
        line.append(f"{action.id:<20} ", "" if allowed else "dim")
        line.append(action.help if allowed else f"× denied: {action.help}", "dim")
        if not self._is_here(action):
            line.append(f" ({action.scopes[0]})", "dim italic")
        width = self.app.size.width
        line.truncate(width - 6 if width < NARROW else 84, overflow="ellipsis")
        return line


def home_of(action_id: str, scope: str) -> str | None:
    """The screen to go to for an action that does not count on this one."""
    scopes = BY_ID[action_id].scopes
    return None if scope in scopes or EVERYWHERE in scopes else scopes[0]
