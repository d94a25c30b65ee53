"""Dialogs that something is typed into: `?` explains them where nothing is typed yet, ctrl+g at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from rich.text import Text
from textual.binding import Binding, BindingType

from cloister.console.painted import Dialog
from cloister.console.widgets.entry import Entry

if TYPE_CHECKING:
    from cloister.console.app import ConsoleApp

Result = TypeVar("Result")


class Explained(Dialog[Result]):
    """What has the focus is explained over it, and is as it was when that is closed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "explain", "help", priority=True),
        Binding("ctrl+g", "explain_typing", "help", priority=True),
    ]

    def explanation(self) -> tuple[str, Text]:
        """What it is called, and what is said of it."""
        raise NotImplementedError

    @property
    def explains(self) -> str:
        """The key that does it now."""
        return "?" if self._asks() else "ctrl+g"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "explain" or self._asks()

    def action_explain(self) -> None:
        title, text = self.explanation()
        cast("ConsoleApp", self.app).tell(f"Help: {title}", text)

    def action_explain_typing(self) -> None:
        self.action_explain()

    def _asks(self) -> bool:
        return not isinstance(self.focused, Entry) or self.focused.asks
