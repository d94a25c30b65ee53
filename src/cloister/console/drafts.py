"""What was typed into the form that was filled in last, for when it comes again: until what it asked for is done.

No secret is kept. It knows no screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloister.console.screens.dialogs import Field


class Draft:
    """One form's values by its title, and what is wrong with them, where that was found."""

    def __init__(self) -> None:
        self._title: str | None = None
        self._values: dict[str, str] = {}
        self.mistake: str | None = None

    def keep(self, title: str, fields: Sequence[Field], values: Mapping[str, str]) -> None:
        self._title, self.mistake = title, None
        self._values = {one.name: values[one.name] for one in fields if one.kept and not one.secret}

    def forget(self) -> None:
        self._title, self._values = None, {}

    def filled(self, title: str, fields: Sequence[Field]) -> list[Field]:
        """The fields with what was typed; a choice that there is no more stands as it was."""
        if title != self._title:
            return list(fields)
        return [replace(one, value=self._said(one)) for one in fields]

    def _said(self, field: Field) -> str:
        value = self._values.get(field.name, field.value)
        return value if not field.choices or value in field.choices else field.value
