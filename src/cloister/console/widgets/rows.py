"""A table of lines with keys: only the lines in sight are drawn, and only those that changed are drawn again.

The cursor stays on its line whatever comes and goes; a thousand lines cost as little as ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import is_
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from cloister.console.widgets.columns import Short, fitted, shortened

MOST = 10_000
"""Lines that are shown; the filter finds the others."""
KEPT = 1_000
"""So many drawn lines are kept, to be shown again as they are."""
HEADER = 1
PADDING = 1
"""Columns of space on either side of a cell."""


@dataclass(frozen=True)
class Line:
    """`key` is what the line stands for: an id, mostly. `copied` is what `y` copies; the key unless said otherwise."""

    key: str
    cells: tuple[Text, ...]
    copied: str | None = None

    def holds(self, word: str) -> bool:
        """Whether any cell, or the key, has that word, without regard to case."""
        return word.casefold() in self._folded

    @cached_property
    def _folded(self) -> str:
        return "\n".join([*(cell.plain for cell in self.cells), self.key]).casefold()

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Columns of the terminal that each cell takes."""
        return tuple(cell_len(cell.plain) for cell in self.cells)


def _same(before: Line | None, now: Line) -> Line:
    """The line as it was, which was drawn already, where it still says the same."""
    return before if before is not None and (before is now or before == now) else now


class Rows(ScrollView, can_focus=True):
    """Lines under headings; one of them is chosen. Where they do not fit, columns that have a `least` width, by their
    headings, give way: what is in them is shortened so that no two look alike, but in the last, which is cut off."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--header", "rows--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "open", show=False),
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home", f"move(-{MOST})", "first", show=False),
        Binding("end", f"move({MOST})", "last", show=False),
    ]

    class Highlighted(Message):
        """Another line was chosen by a key."""

    class Selected(Message):
        """The chosen line is to be opened."""

    def __init__(self, columns: Sequence[str], least: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._headings = tuple(columns)
        wanted = {columns.index(heading): width for heading, width in (least or {}).items()}
        self._least = {at: max(width, cell_len(columns[at])) for at, width in wanted.items()}
        self._lines: list[Line] = []
        self._widths = tuple(map(cell_len, columns))  # that they take; `_fitted` are those that they have
        self._fitted = self._widths
        self._fitted_for = 0
        self._shorts: dict[int, dict[str, Short]] = {}
        self._drawn: dict[int, tuple[Line, Strip]] = {}
        self._drawn_for: object = None
        self.cursor_row = 0

    @property
    def chosen(self) -> Line | None:
        """The line under the cursor."""
        return self._lines[self.cursor_row] if 0 <= self.cursor_row < len(self._lines) else None

    def head(self, columns: Sequence[str]) -> None:
        """Other headings of the columns."""
        if tuple(columns) != self._headings:
            self._headings = tuple(columns)
            self._measure()
            self._fit()
            self.refresh()

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Show these, at most `MOST`; what is there already stays where it is."""
        before, chosen = self._lines, self.chosen
        if len(lines) == len(before) and all(map(is_, lines, before)):
            return
        known = {line.key: line for line in before}
        fresh = list({line.key: line for line in reversed(lines)}.values())[::-1][:MOST]  # no key twice
        fresh = [_same(known.get(line.key), line) for line in fresh]
        self._lines = fresh
        if chosen is not None:
            self.cursor_row = self._place_of(chosen.key)
        self._measure()
        if self._fit() or len(before) != len(fresh):
            self.refresh()
        else:
            for row, (old, new) in enumerate(zip(before, fresh, strict=True)):
                if old is not new:
                    self._refresh_row(row)
        self._keep_in_sight()

    def move_cursor(self, row: int) -> None:
        """Choose another line, as near to that number as there is one."""
        row = max(0, min(row, len(self._lines) - 1))
        if row == self.cursor_row or not self._lines:
            return
        self._refresh_row(self.cursor_row)
        self._refresh_row(row)
        self.cursor_row = row
        self._keep_in_sight()
        self.post_message(self.Highlighted())

    @property
    def seen(self) -> int:
        """Columns beside the scroll bar, which hides what is drawn behind it."""
        return self.size.width - self.scrollbar_size_vertical

    def get_content_width(self, container: Size, viewport: Size) -> int:
        """What the lines take, and a scroll bar."""
        return self.virtual_size.width + 1

    # --- what is drawn ------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """One line of the screen: the headings, or a line of the table."""
        width = self.size.width
        if self.seen != self._fitted_for:  # a scroll bar came or went
            self._fit()
        if y < HEADER:
            style = self.rich_style + self.get_component_rich_style("rows--header", partial=True)
            cells = [Text(heading) for heading in self._headings]
            return self._strip(cells, style, self.rich_style).crop(0, width)
        row = self.scroll_offset.y + y - HEADER
        if row >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        return self._row(row).crop(0, width)

    def _row(self, row: int) -> Strip:
        line, chosen = self._lines[row], row == self.cursor_row
        if chosen:
            cursor = self.get_component_rich_style("rows--cursor", partial=True)
            return self._strip(line.cells, self.rich_style + cursor, self.rich_style + cursor, over=cursor)
        drawn_for = (self.seen, self._fitted, self.rich_style)
        if drawn_for != self._drawn_for or len(self._drawn) > KEPT:
            self._drawn.clear()
            self._drawn_for = drawn_for
        known = self._drawn.get(row)
        if known is None or known[0] is not line:
            known = (line, self._strip(line.cells, self.rich_style, self.rich_style))
            self._drawn[row] = known
        return known[1]

    def _strip(self, cells: Sequence[Text], style: Style, rest: Style, *, over: Style | None = None) -> Strip:
        """Cells beside each other, each as wide as its column. `over` is the look of the cursor, whose own colour is
        stronger than a cell's."""
        width, left = self.seen, 0
        space = Segment(" " * PADDING, style)
        parts: list[Segment] = []
        for at, (column, whole) in enumerate(zip(self._fitted, cells, strict=False)):
            if left > width:
                break
            short = self._shorts.get(at, {}).get(whole.plain)
            cell = whole if short is None else short.of(whole)
            parts.append(space)
            taken = 0
            own = style + self.app.console.get_style(cell.style)
            for segment in cell.render(self.app.console):
                look = own + segment.style if segment.style is not None else own
                if over is not None and over.color is not None:
                    look += Style.from_color(over.color)
                parts.append(Segment(segment.text, look))
                taken += segment.cell_length
            parts.append(Segment(" " * (column - taken + PADDING), style))
            left += max(column, taken) + 2 * PADDING
        strip = Strip(parts).adjust_cell_length(max(width, left), rest)
        if left > width and strip.crop(width).text.strip():  # what does not fit is not gone unseen
            strip = Strip([*strip.crop(0, width - 1), Segment("…", style)])
        return strip.simplify()

    def _measure(self) -> None:
        """Each column as wide as its widest cell would like."""
        widths = tuple(
            map(max, zip(map(cell_len, self._headings), *(one.widths for one in self._lines), strict=False))
        )
        size = Size(sum(widths) + 2 * PADDING * len(widths), len(self._lines) + HEADER)
        moved = self.styles.auto_dimensions and size != self.virtual_size
        if widths != self._widths:
            self._widths = widths
            self.refresh()
        if size != self.virtual_size:
            self.virtual_size = size
        if moved:
            self.refresh(layout=True)

    def _fit(self) -> bool:
        """Each column as wide as there is room. Whether all is to be drawn again, names being shortened otherwise."""
        self._fitted_for = self.seen
        room = self.seen - 2 * PADDING * len(self._widths) + PADDING  # none behind the last
        widths = fitted(self._widths, self._least, room) if self.size.width else self._widths
        shorts = {
            at: shortened({line.cells[at].plain for line in self._lines}, widths[at])
            for at in self._least
            if widths[at] < self._widths[at] and at < len(widths) - 1
        }
        before = (self._fitted, self._shorts)
        self._fitted, self._shorts = widths, shorts
        if before == (widths, shorts):
            return False
        self._drawn.clear()
        return True

    def _refresh_row(self, row: int) -> None:
        y = row - self.scroll_offset.y + HEADER
        if HEADER <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    # --- moving about -------------------------------------------------------------------------

    def _place_of(self, key: str) -> int:
        """The row with that key; where it is gone, the row that is there now."""
        if self.cursor_row < len(self._lines) and self._lines[self.cursor_row].key == key:
            return self.cursor_row
        for row, line in enumerate(self._lines):
            if line.key == key:
                return row
        return max(0, min(self.cursor_row, len(self._lines) - 1))

    @property
    def _page(self) -> int:
        return max(1, self.size.height - HEADER)

    def _keep_in_sight(self) -> None:
        top = self.scroll_offset.y
        wanted = min(max(top, self.cursor_row - self._page + 1), self.cursor_row)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, force=True)

    def on_resize(self) -> None:
        if self._fit():
            self.refresh()
        self._keep_in_sight()

    def action_select(self) -> None:
        if self.chosen is not None:
            self.post_message(self.Selected())

    def action_move(self, by: int) -> None:
        self.move_cursor(self.cursor_row + by)

    def action_page(self, by: int) -> None:
        self.move_cursor(self.cursor_row + by * self._page)
