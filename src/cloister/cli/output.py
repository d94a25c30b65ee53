"""How commands speak: tables and lines for people, JSON for programs. Text from outside is never markup."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from cloister.api import Job

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text.")]

_BIDI = frozenset(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u200b\u200c\u200d\ufeff\u061c"
)


def visible(text: str, *, lines: bool = False) -> str:
    """Text from outside with control characters and bidirectional tricks shown as escapes; with `lines` it keeps
    its line ends."""
    return "".join(
        character
        if (character.isprintable() and character not in _BIDI)
        or character == " "
        or (lines and character == "\n")
        else character.encode("unicode_escape").decode()
        for character in text
    )


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
    names stay whole, to be copied. Piped, it takes the width that it needs."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = [[Text(visible(str(cell))) for cell in row] for row in rows]
    if not body:
        print(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number < len(columns) - 1)
    for row in body:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 240
    Console(highlight=False, width=width).print(table)


def say(text: str) -> None:
    """A line for a person, on standard error, so that standard output stays for results.

    In one piece: ctrl-c finds it written or not, and never without its end.
    """
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def size(count: int) -> str:
    """Bytes in a unit that fits."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds as `1h02m`, `3m05s` or `12s`; `?` where there is no estimate."""
    if seconds is None:
        return "?"
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def moment(time: datetime | None) -> str:
    """Month, day, hour and minute in this machine's zone."""
    return time.astimezone().strftime("%m-%d %H:%M") if time else "-"


def describe(job: Job) -> str:
    """A job's state in one line: what it does, how far, the numbers of the moment, and what remains."""
    parts = [f"{job.verb} {job.state}"]
    if job.progress is not None and job.state == "running":
        progress = job.progress
        parts.append(f"{progress.stage} {progress.done}/{progress.total}")
        if progress.remaining_s is not None:
            parts.append(f"{duration(progress.remaining_s)} left")
    if job.state == "queued" and job.position is not None:
        parts.append(f"number {job.position} to start")
        if job.waits_for is not None:
            parts.append(f"waits for {job.waits_for}")
        elif job.starts_in_s is not None:
            parts.append(f"in about {duration(job.starts_in_s)}")
    if job.state == "running" and (job.device or "cpu") != "cpu":
        parts.append(str(job.device))
    for name in ("loss", "holdout_loss", "tokens_per_s"):
        if name in job.metrics:
            parts.append(f"{name} {job.metrics[name]:.4g}")
    return visible(" · ".join(parts))


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
