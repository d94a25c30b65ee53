"""What jobs said over time, bounded: a series a number for the curves, and the last lines for the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from cloister.api import Event

POINTS = 1_000
"""Of one series; with more, every second one goes."""
LINES = 500
LINE = 400
"""Characters of a line that are remembered, as many as are shown."""
JOBS = 64
"""So many jobs are remembered, those that spoke last."""


class History:
    """Numbers and lines of jobs, as the event stream told them."""

    def __init__(self) -> None:
        self._series: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self._lines: dict[str, deque[tuple[datetime, str]]] = {}

    def take(self, event: Event) -> None:
        """Take in one event. What is no job's is left alone."""
        job = event.subject
        if job is None or not event.kind.startswith("job."):
            return
        if event.kind == "job.metrics":
            self._add(job, int(event.data.get("step", 0)), event.data.get("values", {}))
        elif event.kind == "job.notice":
            self._say(job, event.time, str(event.data.get("message", "")))
        elif event.kind == "job.state":
            self._say(job, event.time, f"{event.data.get('state', '?')}")

    def fill(self, job: str, points: Iterable[tuple[int, dict[str, float]]]) -> None:
        """All that a job measured, by step, in the place of what was heard of it but for what is newer."""
        heard = self._series.pop(job, {})
        last = -1
        for step, values in points:
            self._add(job, step, values)
            last = step
        for name, series in heard.items():
            for step, value in series:
                if step > last:
                    self._add(job, step, {name: value})

    def series(self, job: str | None, name: str) -> list[tuple[int, float]]:
        """Steps and values, by step."""
        return self._series.get(job or "", {}).get(name, [])

    def lines(self, job: str | None) -> list[tuple[datetime, str]]:
        return list(self._lines[job]) if job in self._lines else []

    def _say(self, job: str, time: datetime, line: str) -> None:
        known = self._lines.pop(job, None)
        self._lines[job] = deque(maxlen=LINES) if known is None else known
        self._lines[job].append((time, line[:LINE]))
        _forget(self._lines)

    def _add(self, job: str, step: int, values: dict[str, float]) -> None:
        known = self._series.pop(job, {})
        self._series[job] = known
        _forget(self._series)
        for name, value in values.items():
            points = known.setdefault(name, [])
            while points and points[-1][0] >= step:  # it went on from a checkpoint: the newer ones count
                points.pop()
            points.append((step, float(value)))
            if len(points) > POINTS:
                del points[1:-1:2]


def _forget(known: dict[str, Any]) -> None:
    """The job that spoke longest ago, where there are too many. The last one to speak stands last."""
    while len(known) > JOBS:
        del known[next(iter(known))]
