"""Progress is bounded in number, never misses a stage's ends, and estimates from the recent rate."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.api import Progress
from cloister.shown import duration
from cloister.worker.emit import Emitter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(descriptor: int) -> list[dict[str, Any]]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return [json.loads(line) for line in file.read().splitlines()]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 3)), min_size=1, max_size=60))
def test_progress_is_rate_limited_and_complete(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    descriptor = os.memfd_create("events")
    emit = Emitter(descriptor, clock=clock)
    total = sum(size for _, size in steps)
    emit.progress("train", 0, total)
    done = 0
    for pause, size in steps:
        clock.now += pause
        done += size
        emit.progress("train", done, total)
    told = lines(descriptor)
    os.close(descriptor)
    assert told[0] == {"event": "progress", "stage": "train", "done": 0, "total": total, "remaining_s": None}
    assert (told[-1]["done"], told[-1]["remaining_s"]) == (total, 0.0)
    assert len(told) <= clock.now / 0.2 + 3
    assert [event["done"] for event in told] == sorted(event["done"] for event in told)
    assert all(event["remaining_s"] is None or event["remaining_s"] >= 0 for event in told)


def test_the_estimate_follows_the_rate() -> None:
    clock = Clock()
    descriptor = os.memfd_create("events")
    emit = Emitter(descriptor, clock=clock)
    for done in range(11):
        emit.progress("train", done, 100)
        clock.now += 2.0
    assert lines(descriptor)[-1]["remaining_s"] == 180.0
    emit.progress("evaluate", 0, 5)
    assert lines(descriptor)[-1]["remaining_s"] is None
    os.close(descriptor)


def test_lines_of_many_threads_stay_whole() -> None:
    read, write = os.pipe()
    emit = Emitter(write)
    values = {
        f"{'name_' * 12}{index}": float(index) for index in range(64)
    }  # more than a pipe takes in one piece
    threads = [
        threading.Thread(target=lambda: [emit.metrics(1, values) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    closer = threading.Thread(target=lambda: ([thread.join() for thread in threads], os.close(write)))
    closer.start()
    with os.fdopen(read, "rb") as file:
        told = [json.loads(line) for line in file]
    closer.join()
    assert len(told) == 80
    assert all(event["values"] == values for event in told)


def test_no_time_left_is_never_less_than_none() -> None:
    overdue = Progress(stage="train", done=3, total=4, remaining_s=-90.0)
    assert overdue.remaining_s == 0.0 and Progress(stage="x", done=0, total=1).remaining_s is None
    assert [duration(seconds) for seconds in (-90.0, 59.6, float("inf"), None)] == ["0s", "1m00s", "?", "?"]
