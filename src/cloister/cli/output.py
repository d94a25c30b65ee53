"""How commands speak: tables and lines for people, JSON for programs. Text from outside is never markup."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.shown import describe, duration, figure, moment, size, standing, visible, went_wrong

if TYPE_CHECKING:
    from cloister.api import Job, Run

__all__ = [
    "JsonFlag",
    "Live",
    "describe",
    "duration",
    "figure",
    "moment",
    "print_json",
    "print_table",
    "say",
    "size",
    "standing",
    "tell",
    "visible",
    "warn_of",
]

BETWEEN = 3
"""Columns of the terminal from one column of a table to the next."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text.")]


def print_json(document: Any) -> None:
    """One JSON document on standard output. Takes pydantic models, lists of them, and plain values."""
    print(json.dumps(_plain(document), ensure_ascii=False))


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def flattened(values: Mapping[str, Any], between: str = " ", prefix: str = "") -> dict[str, Any]:
    """Settings within settings as one level, their names joined."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, between, f"{prefix}{key}{between}")
        else:
            found[f"{prefix}{key}"] = value
    return found


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table without lines, or `empty` where there is no row. Only the last column is wrapped: ids and
    names stay whole, to be copied. What is too wide for the terminal goes on below, under its first column
    once more. Piped, a table takes the width that it needs."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = [[visible(str(cell)) for cell in row] for row in rows]
    if not body:
        print(empty)
        return
    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else 240)
    widths = [max(cell_len(line[at]) for line in (columns, *body)) for at in range(len(columns))]
    least = max(cell_len(word) for line in (columns, *body) for word in [*line[-1].split(), ""])
    blocks = _blocks(widths, least, console.width) if terminal else [range(len(columns))]
    for number, shown in enumerate(blocks):
        if number:
            console.print()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(columns))
        for at in shown:
            table.add_column(columns[at], overflow="fold", no_wrap=at != shown[-1])
        for row in body:
            table.add_row(*(Text(row[at]) for at in shown))
        console.print(table)


def _blocks(widths: Sequence[int], least: int, room: int) -> list[Sequence[int]]:
    """Which columns stand side by side: all, the last one wrapped to no less than `least` where it has to be; else as
    many as fit beside the first."""
    if sum(widths[:-1]) + least + BETWEEN * (len(widths) - 1) <= room:
        return [range(len(widths))]
    blocks: list[list[int]] = [[0]]
    taken = widths[0]
    for at, width in enumerate(widths[1:], 1):
        if len(blocks[-1]) > 1 and taken + BETWEEN + width > room:
            blocks.append([0])
            taken = widths[0]
        blocks[-1].append(at)
        taken += BETWEEN + width
    return list(blocks)


def tell(text: str) -> None:
    """A sentence of a result, on standard output: on a terminal wrapped between words, a `command` in one piece."""
    if sys.stdout.isatty():
        import shutil
        import textwrap

        kept = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
        room = shutil.get_terminal_size((80, 24)).columns
        lines = textwrap.wrap(kept, room, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
    print(text)


def say(text: str) -> None:
    """A line for a person, on standard error, so that standard output stays for results.

    In one piece: ctrl-c finds it written or not, and never without its end.
    """
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def warn_of(run: Run) -> None:
    """Say of a run whose numbers went wrong what they did, wherever what was kept of it is used."""
    wrong = went_wrong(run)
    if wrong is not None:
        say(f"! {visible(run.name)} went wrong: {visible(wrong)}")


class Live:
    """A line that is drawn over on a terminal, and printed only when its stage changes elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ""

    def show(self, job: Job) -> None:
        line = describe(job)
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{line}")
            sys.stderr.flush()
        else:
            stage = f"{job.state} {job.progress.stage if job.progress else ''}"
            if stage != self._last:
                say(line)
                self._last = stage

    def end(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
