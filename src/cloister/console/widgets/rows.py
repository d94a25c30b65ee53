"""A table of lines with keys, changed cell by cell: the cursor stays on its line whatever comes and goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

MOST = 500
"""Lines that are shown; the filter finds the others."""


@dataclass(frozen=True)
class Line:
    """`key` is what the line stands for: an id, mostly. `copied` is what `y` copies; the key unless said otherwise."""

    key: str
    cells: tuple[Text, ...]
    copied: str | None = None

    def holds(self, word: str) -> bool:
        """Whether any cell, or the key, has that word, without regard to case."""
        wanted = word.casefold()
        return any(wanted in cell.plain.casefold() for cell in self.cells) or wanted in self.key.casefold()


class Rows(DataTable[Text]):
    """Lines under headings; one of them is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", "first", show=False),
        Binding("end", "scroll_bottom", "last", show=False),
        Binding("j", "cursor_down", "down", show=False),
        Binding("k", "cursor_up", "up", show=False),
    ]

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, cell_padding=1)
        self._headings = tuple(columns)
        self._lines: dict[str, Line] = {}
        self._drawn: list[str] = []

    def on_mount(self) -> None:
        for heading in self._headings:
            self.add_column(heading, key=heading)

    @property
    def chosen(self) -> Line | None:
        """The line under the cursor."""
        if not 0 <= self.cursor_row < len(self._drawn):
            return None
        return self._lines[self._drawn[self.cursor_row]]

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Show these, at most `MOST`; what is there already stays where it is."""
        lines = list({line.key: line for line in reversed(lines)}.values())[::-1][:MOST]  # no key twice
        keys = [line.key for line in lines]
        if keys == self._drawn:
            for line in lines:
                self._update(line)
            return
        fresh = {line.key: line for line in lines}
        before = self.chosen.key if self.chosen else None
        if keys[: len(self._drawn)] == self._drawn:  # only new ones below
            for line in lines[: len(self._drawn)]:
                self._update(line)
            for line in lines[len(self._drawn) :]:
                self.add_row(*line.cells, key=line.key)
        else:
            self.clear()
            for line in lines:
                self.add_row(*line.cells, key=line.key)
        self._lines, self._drawn = fresh, keys
        if before in fresh:
            self.move_cursor(row=keys.index(before), animate=False)

    def _update(self, line: Line) -> None:
        old = self._lines[line.key]
        for heading, cell, now in zip(self._headings, old.cells, line.cells, strict=True):
            if cell != now:
                self.update_cell(line.key, heading, now, update_width=True)
        self._lines[line.key] = line
