"""Rows on their way to the operator's eyes: through a pipe into memory, escaped, and forgotten with the dialog.

That they were asked for is recorded before the first one comes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text

from cloister.console.forgetting import forget_drawn
from cloister.console.paint import marked as noted
from cloister.console.paint import outside, quoted, stack
from cloister.console.screens.dialogs import Tell
from cloister.errors import InvalidInput
from cloister.rendered import BEGIN, END, facts_of, marked, warnings_of
from cloister.shown import visible

if TYPE_CHECKING:
    from cloister.api import RenderRequest, RowsConfig
    from cloister.client import Client
    from cloister.console.app import ConsoleApp

LONGEST = 20_000
"""Characters of one text that are shown."""
MOST = 100


def numbers(text: str) -> tuple[int, ...]:
    """`0-4,17` as numbers of rows. Errors: InvalidInput."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not all(one.isascii() and one.isdigit() and len(one) < 16 for one in (first, last or first)):
            raise InvalidInput("rows are given as 0-4,17")
        span = range(int(first), int(last or first) + 1)
        if len(found) + len(span) > MOST or not span:
            raise InvalidInput(f"at most {MOST} rows at once, the lower number first")
        found += span
    return tuple(found)


def rows_of(client: Client, dataset: str, request: RowsConfig) -> list[dict[str, Any]]:
    """The rows, or the labels. Errors: those of `Client.show_rows`."""
    content = _written(lambda output: client.show_rows(dataset, request, output))
    return [json.loads(line) for line in content.splitlines()]


def render_of(client: Client, dataset: str, request: RenderRequest) -> dict[str, Any]:
    """A row as a run would learn it. Errors: those of `Client.render_row`."""
    found: dict[str, Any] = json.loads(_written(lambda output: client.render_row(dataset, request, output)))
    return found


def _written(show: Callable[[int], object]) -> bytes:
    """All that is written to the descriptor that `show` is given."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pieces: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 1 << 16):
            pieces.append(piece)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        show(writing)
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)
    return b"".join(pieces)


def spelled(lines: list[dict[str, Any]]) -> Text:
    """Rows as text, every control character an escape."""
    return stack(*(_label(line) if "number" in line else _row(line) for line in lines))


def as_learnt(found: dict[str, Any]) -> Text:
    """A rendered row: what it is, then its own words, each line behind a bar, with what is learnt between marks."""
    text = marked(found["spans"])
    cut = len(text) > LONGEST
    lines = text[:LONGEST].split("\n", allow_blank=True)
    return stack(
        outside(facts_of(found), style="bold"),
        *(noted("warn", warning) for warning in warnings_of(found)),
        Text(f"{BEGIN} {END} stand around what is learnt.", "dim"),
        Text("\n").join([Text("│ ", "dim").append_text(line) for line in lines]),
        noted("warn", f"Of {len(text):,} characters the first {LONGEST:,} are shown.") if cut else "",
    )


def _label(line: dict[str, Any]) -> Text:
    return outside(f"label {line['number']}: {line['label']} ({line['rows']} rows)")


def _row(line: dict[str, Any]) -> Text:
    marks = [f"row {line['row']}", str(line["side"])]
    if line.get("label") is not None:
        marks.append(f"label: {line['label']}")
    marks += [f"{name}: {value}" for name, value in line.get("groups", {}).items()]
    text = outside("── " + " · ".join(marks), style="bold") + Text("\n")
    if line.get("text") is not None:
        text.append_text(_content(line["text"]))
    if line.get("tools") is not None:
        text.append_text(_content(line["tools"], "tools"))
    for message in line.get("messages", []):
        text.append_text(_content(message["content"], visible(str(message["role"]), limit=24)))
        for call in message.get("tool_calls", []):
            text.append_text(_content(f"{call['name']}({call['arguments']})", "calls"))
    return text


def _content(value: object, lead: str = "") -> Text:
    """A row's own words, each line behind a bar: none can pass for the head of another row."""
    return quoted(str(value)[:LONGEST], lead=lead)


class Revealed(Tell):
    """Rows to read. Closed, it holds none."""

    def on_unmount(self) -> None:
        self._text = Text("")
        self.app.call_later(forget_drawn, cast("ConsoleApp", self.app).collector)
