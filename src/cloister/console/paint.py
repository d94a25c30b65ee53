"""How things look in a line of text: state as word, glyph and colour together, facts in two columns.

Everything here makes `rich.text.Text`, never markup; text from outside goes through `outside`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from cloister.shown import visible

if TYPE_CHECKING:
    from rich.console import Console

LABEL = 40
PAIRS = 300
"""So many facts of one thing are shown at most."""
NAME = 64
"""Characters of a name in a table, which is shortened to the room that there is: no name of the appliance has more."""
LIMIT = 400
"""Characters of one value that are shown where nothing else is said."""

QUOTED = 64
"""Columns of a quoted line, within the narrowest dialog of 80 columns."""
QUOTED_LINES = 500
LEAD = 10
LEAST = 16
"""Columns that a value has at least beside its name."""

GLYPHS = {"good": "●", "busy": "►", "wait": "○", "warn": "▲", "bad": "×", "off": "■"}
"""Of the characters that fonts have; on the Linux console `terminal` puts another bullet in its place."""
COLOURS = {
    "good": "green",
    "busy": "cyan",
    "wait": "yellow",
    "warn": "yellow",
    "bad": "bold red",
    "off": "dim",
}
"""Of the glyphs."""
WORDS = {"warn": "bold", "bad": "bold red", "off": "dim"}
"""Of the words beside them: in the terminal's own foreground, as yellow, green or cyan ones cannot be read on a light
terminal, and in red, which can."""
MOODS = {
    **dict.fromkeys(
        ("done", "ready", "running-well", "approved", "good", "open", "active", "verified"), "good"
    ),
    **dict.fromkeys(("running", "starting", "restarting", "stopping", "busy"), "busy"),
    **dict.fromkeys(("queued", "waiting-source", "pending", "asked", "intended", "waiting"), "wait"),
    **dict.fromkeys(("warning", "warn", "paused", "interrupted", "held", "expired", "unknown"), "warn"),
    **dict.fromkeys(("failed", "bad", "critical", "refused", "revoked", "damaged", "dead"), "bad"),
}


def outside(value: object, limit: int = LIMIT, style: str = "") -> Text:
    """Text from outside: control characters visible, cut to `limit` columns, never markup."""
    shown = visible(str(value), limit=limit)
    if cell_len(shown) > limit:  # escapes and wide characters take more than one column each
        shown = set_cell_size(shown, limit - 1).rstrip() + "…"
    return styled(shown, style)


def quoted(
    value: str, rest: str = "the rest is not shown here", *, lead: str = "", lines: int = QUOTED_LINES
) -> Text:
    """Free text of somebody else, each of its lines behind a bar and none longer than a dialog is wide: so that no
    line of it can pass for one of ours. `lead` stands before the first bar. Where it has more `lines`, it says so
    with `rest`."""
    before = max(LEAD, len(lead) + 1) if lead else 0
    parts: list[str] = []
    for line in value.split("\n", lines):
        parts += chop_cells(visible(line, limit=QUOTED * lines), QUOTED - before) or [""]
        if len(parts) > lines:
            break
    text = Text()
    for number, part in enumerate(parts[:lines]):
        text.append(f"{lead if not number else '':<{before}}│ ", "dim").append(f"{part}\n")
    return text.append(f"▲ {rest}\n", COLOURS["warn"]) if len(parts) > lines else text


def styled(words: str, style: str) -> Text:
    """Words of ours in a style that ends with them, whatever is added behind."""
    return Text().append(words, style)


def marked(mood: str, words: str) -> Text:
    """Words of ours behind the glyph of a mood."""
    return styled(GLYPHS[mood], COLOURS[mood]).append(f" {words}", WORDS.get(mood, ""))


def state(word: str, mood: str | None = None) -> Text:
    """A state by word, glyph and colour."""
    return marked(mood or MOODS.get(word, "off"), visible(word, limit=24))


def facts(pairs: Iterable[tuple[str, object]]) -> Text:
    """Two columns: what, and what it is. Both are outside text, a value unless it is `Text` already."""
    known = [(visible(label, limit=LABEL), value) for label, value in pairs if value not in (None, "")][
        :PAIRS
    ]
    width = max((len(label) for label, _ in known), default=0)
    text = Text()
    for label, value in known:
        text.append(f"{label:<{width}}  ", "dim")
        told = value if isinstance(value, Text) else outside(value)
        text.append_text(told)
        text.append("\n")
    return text


def hung(text: Text, width: int, console: Console) -> Text:
    """Lines of `facts` that are longer than `width` go on below their value, not below its name. The text itself,
    where none is."""
    lines = []
    hangs = False
    for line in text.split("\n", allow_blank=True):
        label = next((one.end for one in line.spans if one.start == 0 and one.style == "dim"), 0)
        room = width - label
        if line.cell_len <= width or not line.plain[:label].endswith("  ") or room < LEAST:
            lines.append(line)
            continue
        hangs = True
        before, value = line[:label], line[label:]
        if any(map(str.isspace, value.plain)):
            parts = list(value.wrap(console, room))
        else:  # a digest: in equal parts
            size = ceil(len(value) / ceil(value.cell_len / room))
            parts = list(value.divide(range(size, len(value), size)))
        for part in parts:
            part.rstrip()
            lines.append(before + part)
            before = Text(" " * label)
    return Text("\n").join(lines) if hangs else text


def flat(values: Mapping[str, Any], lead: str = "", depth: int = 3) -> Iterator[tuple[str, object]]:
    """What a document holds as pairs for `facts`, what is in it in turn with the name before; nothing empty."""
    for name, value in values.items():
        label = f"{lead}{name}".replace("_", " ")
        if isinstance(value, dict) and depth:
            yield from flat(value, f"{label} ", depth - 1)
        elif value not in ([], {}, None):
            yield label, number(value) if isinstance(value, int | float) else value


def titled(words: str, body: Text) -> Text:
    """A part under its heading; nothing where it is empty."""
    return styled(f"{words}\n", "bold").append_text(body) if len(body) else Text()


def stack(*parts: Text | str) -> Text:
    """Parts below each other, an empty line between."""
    text = Text()
    for part in parts:
        if not len(part):
            continue
        if len(text):
            text.append("\n")
        text.append_text(Text(part) if isinstance(part, str) else part)
        if not text.plain.endswith("\n"):
            text.append("\n")
    return text


def number(value: object, digits: int = 4) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    large = isinstance(value, int) or abs(value) >= 10**digits - 0.5
    return f"{value:,.0f}" if large else f"{value:.{digits}g}"


def bar(share: float, width: int = 12) -> str:
    """How full something is, of characters that every font has."""
    filled = round(max(0.0, min(1.0, share)) * width)
    return "█" * filled + "░" * (width - filled)


def ago(then: datetime | None, now: datetime) -> str:
    """How long since, in one unit."""
    if then is None:
        return "-"
    seconds = max(0, int((now - then).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def grid(rows: Sequence[Sequence[Text | str]], header: Sequence[str] = ()) -> Text:
    """Columns as wide as they need; for small tables inside a text."""
    body = [[cell if isinstance(cell, Text) else outside(cell) for cell in row] for row in rows]
    heads = [Text(head, "dim") for head in header]
    every = ([heads] if header else []) + body
    widths = [
        max((row[i].cell_len for row in every if i < len(row)), default=0)
        for i in range(max(map(len, every), default=0))
    ]
    text = Text()
    for row in every:
        for i, cell in enumerate(row):
            text.append_text(cell)
            if i < len(row) - 1:
                text.append(" " * (widths[i] - cell.cell_len + 2))
        text.append("\n")
    return text
