"""Text from outside made safe to look at, and numbers and times in words. It knows no terminal and no markup.

What a name, a log line or an error holds is shown as it is, and what would act on a terminal or hide is shown as
an escape: nothing in it can pass for something of ours.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloister.api import Job, Run

_HIDDEN = frozenset(
    "\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u200b\u200c\u200d\u200e\u200f"
    "\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u2800\u3164\ufeff\uffa0"
    "\ufe00\ufe01\ufe02\ufe03\ufe04\ufe05\ufe06\ufe07\ufe08\ufe09\ufe0a\ufe0b\ufe0c\ufe0d\ufe0e\ufe0f"
)
"""Bidirectional controls, and what takes no room though `str.isprintable` calls it printable."""
LONGEST = 1000
"""Characters of a line that describes something."""
_COMBINING = 3
"""So many marks on one character are shown; more would climb over the lines above."""

MEASURED = {"loss": "loss", "holdout_loss": "hold-out loss", "tokens_per_s": "tokens/s"}
"""Numbers of a job that are told in a line."""


def visible(text: str, *, lines: bool = False, limit: int | None = None) -> str:
    """Text from outside with control characters and bidirectional tricks shown as escapes; with `lines` it keeps
    its line ends. More than `limit` characters are cut, with a `…`."""
    if limit is not None and len(text) > limit:
        text = text[: max(0, limit - 1)] + "…"
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if _is_mark(character) else 0
        if (
            (character.isprintable() and character not in _HIDDEN and marks <= _COMBINING)
            or character == " "
            or (lines and character == "\n")
        ):
            shown.append(character)
        else:
            shown.append(character.encode("unicode_escape").decode())
    return "".join(shown)


def _is_mark(character: str) -> bool:
    import unicodedata

    return ord(character) > 0x2FF and unicodedata.combining(character) != 0


def size(count: int) -> str:
    """Bytes in a unit that fits."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def figure(value: float, digits: int = 4) -> str:
    """So many digits that count, and of a large number all before the point: 189.9, 12346, 0.0002."""
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Seconds as `1h02m`, `3m05s` or `12s`; `?` where there is no estimate. What is overdue has none left."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = max(0, int(seconds + 0.5))
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def counted(count: object, noun: str) -> str:
    """`1 row`, `1,500 rows`; `? rows` of what is no number."""
    told = f"{count:,}" if isinstance(count, int) else "?"
    return f"{told} {noun}{'' if count == 1 else 's'}"


def moment(time: datetime | None) -> str:
    """Month, day, hour and minute in this machine's zone."""
    return time.astimezone().strftime("%m-%d %H:%M") if time else "-"


def until(time: datetime | None) -> str:
    """A moment that may be years away, with its year."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else "-"


def standing(run: Run) -> Job:
    """The job that tells how a run stands: its evaluation once that was begun. That a training failed is not hidden by
    the evaluation of what was kept of it."""
    evaluation = run.evaluate_job
    if evaluation is None or (run.train_job.state == "failed" and evaluation.state == "done"):
        return run.train_job
    return evaluation


def went_wrong(run: Run) -> str | None:
    """What went wrong with a run whose adapter is from before that; None where nothing did."""
    job = run.train_job
    return job.error.detail if run.adapter is not None and job.state == "failed" and job.error else None


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
    for name, words in MEASURED.items():
        if name in job.metrics:
            parts.append(f"{words} {figure(job.metrics[name])}")
    return visible(" · ".join(parts), limit=LONGEST)
