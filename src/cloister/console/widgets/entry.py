"""A line to type into that keeps the order of keys, however many arrive at once over a slow line, and lets nothing in
that acts on a terminal or hides.

Textual lets keys that edit climb to the application before they count, while letters count at once; and it draws what
is pasted as it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, ClassVar

from textual.events import Key
from textual.widgets import Input

from cloister.shown import visible

LONGEST = 1 << 14
"""Characters of one line; a paste that would make it longer is refused as a whole."""


class Entry(Input):
    """An `Input` whose editing keys count in the order in which they came. `KEPT` are hidden characters that may be
    part of a word all the same."""

    KEPT: ClassVar[frozenset[str]] = frozenset()
    EDITING: ClassVar[dict[str, Callable[[Input], None]]] = {
        "backspace": Input.action_delete_left,
        "delete": Input.action_delete_right,
        "left": Input.action_cursor_left,
        "right": Input.action_cursor_right,
        "home": Input.action_home,
        "end": Input.action_end,
    }

    def __init__(self, value: str | None = None, **options: Any) -> None:
        super().__init__(value, **{"max_length": LONGEST} | options)
        self.set_reactive(
            Input.cursor_blink, False
        )  # whoever looks finds it, and a slow line carries nothing for it

    def validate_value(self, value: str) -> str:
        """What a password is typed as is nobody's business, and it is not drawn."""
        return (value if self.password else self._clean(value))[:LONGEST]

    def replace(self, text: str, start: int, end: int) -> None:
        super().replace(text if self.password else self._clean(text), start, end)

    def _clean(self, text: str) -> str:
        """Without what hides; a tab, and whatever else controls a terminal, is a space."""
        if text.isascii() and text.isprintable():
            return text
        kept = []
        for character in text:
            if character in self.KEPT or visible(character) == character:
                kept.append(character)
            elif unicodedata.category(character) in ("Cc", "Zl", "Zp"):
                kept.append(" ")
        return "".join(kept)

    @property
    def asks(self) -> bool:
        """Whether a question mark may ask what goes here: it is a character once there is one, and in a secret."""
        return not self.value and not self.password

    def check_consume_key(self, key: str, character: str | None) -> bool:
        """Textual takes bindings of such keys away while it has the focus."""
        return super().check_consume_key(key, character) and not (key == "question_mark" and self.asks)

    async def _on_key(self, event: Key) -> None:
        edit = self.EDITING.get(event.key)
        if edit is None:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()
        edit(self)


class Prompt(Entry):
    """A line of a language, some of which join and part letters by characters that are not seen."""

    KEPT = frozenset("\u200c\u200d")
