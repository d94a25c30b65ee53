"""What a job says while it runs: one JSON event a line, on the standard output that it began with.

It never carries content: numbers, stages, and sentences written beforehand. It knows nothing of who
reads it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from cloister.api import Failure, Metrics, Notice, Progress, Result

_PROGRESS_INTERVAL_S = 0.2
_SMOOTHING = 0.3


class Emitter:
    """Writes events to `descriptor`. Safe for threads.

    `progress` is written at most five times a second, a stage's first and last always. The estimate
    of what remains follows the recent rate.
    """

    def __init__(self, descriptor: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = False
        self._stage: str | None = None
        self._written_at = -math.inf
        self._mark: tuple[float, int] = (0.0, 0)
        self._rate: float | None = None

    def progress(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of `stage`."""
        now = self._clock()
        with self._lock:
            first = stage != self._stage
            if first:
                self._stage, self._mark, self._rate = stage, (now, done), None
            if not first and done < total and now - self._written_at < _PROGRESS_INTERVAL_S:
                return
            remaining = self._remaining(now, done, total)
            self._written_at = now
            self._write(Progress(stage=stage, done=done, total=total, remaining_s=remaining))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step. Those that are not finite are left out: JSON has no word for them."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        with self._lock:
            self._write(Metrics(step=step, values=finite))

    def notice(self, level: Literal["info", "warning"], message: str) -> None:
        """A sentence for the operator, without content."""
        with self._lock:
            self._write(Notice(level=level, message=message[:1000]))

    def result(self, values: Mapping[str, Any]) -> None:
        """The end, well."""
        with self._lock:
            self._write(Result(values=dict(values)))

    def failure(self, failure: Failure) -> None:
        """The end, badly."""
        with self._lock:
            self._write(failure)

    def should_stop(self) -> bool:
        """Whether the job was asked to stop: finish the step, keep a checkpoint, raise `Interrupted`."""
        return self._stop

    def request_stop(self) -> None:
        """Ask the job to stop. Safe in a signal handler: it takes no lock."""
        self._stop = True

    def _remaining(self, now: float, done: int, total: int) -> float | None:
        since, before = self._mark
        if done > before and now > since:
            rate = (done - before) / (now - since)
            self._rate = rate if self._rate is None else _SMOOTHING * rate + (1 - _SMOOTHING) * self._rate
            self._mark = (now, done)
        if done >= total:
            return 0.0
        return round((total - done) / self._rate, 1) if self._rate else None

    def _write(self, event: Progress | Metrics | Notice | Result | Failure) -> None:
        view = memoryview(event.model_dump_json().encode() + b"\n")
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError:
            os._exit(1)  # the launcher is gone, and this process with it
