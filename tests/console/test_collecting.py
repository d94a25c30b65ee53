"""Garbage is collected while nobody types; what is to be forgotten is not kept by it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from rich.cells import cached_cell_len

from cloister.console.collecting import DUE, LONG_REST_S, OVERDUE, REST_S, WHOLE, Collector
from cloister.console.forgetting import forget_drawn


class Ring:
    """Refers to itself: only the collector finds that nobody else does."""

    def __init__(self) -> None:
        self.again = self


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def old_ring() -> weakref.ref[Ring]:
    """Garbage that short passes do not find any more."""
    ring = Ring()
    gone = weakref.ref(ring)
    gc.collect()
    del ring
    for _ in range(DUE + 1):
        gc.collect(1)
    return gone


def test_a_long_pass_waits_until_nobody_types() -> None:
    clock = Clock()
    collector = Collector(clock)
    collector.begin()
    assert gc.get_threshold()[2] == OVERDUE and gc.get_freeze_count()
    gone = old_ring()
    collector.typed()
    clock.now += REST_S / 2
    collector.look()
    assert gone() is not None
    clock.now += REST_S
    collector.look()
    assert gone() is None


def test_nothing_is_looked_through_where_nothing_is_due() -> None:
    clock = Clock()
    collector = Collector(clock)
    collector.begin()
    gc.collect()
    clock.now += REST_S
    passes = gc.get_stats()[2]["collections"]
    collector.look()
    assert gc.get_stats()[2]["collections"] == passes


def test_what_outlived_passes_is_looked_through_in_a_long_rest() -> None:
    clock = Clock()
    collector = Collector(clock)
    ring = Ring()
    gone = weakref.ref(ring)
    collector.begin()
    del ring
    for _ in range(WHOLE):
        old_ring()
        clock.now += REST_S
        collector.look()
    assert gone() is not None
    collector.typed()
    clock.now += LONG_REST_S
    collector.look()
    assert gone() is None and gc.get_freeze_count()


def test_what_was_drawn_is_forgotten_though_the_collector_left_it_aside() -> None:
    clock = Clock()
    collector = Collector(clock)
    cached_cell_len("a canary of the rows")
    ring = Ring()
    gone = weakref.ref(ring)
    collector.begin()
    assert cached_cell_len.cache_info().currsize
    forget_drawn(collector)
    assert not cached_cell_len.cache_info().currsize
    del ring
    clock.now += REST_S
    collector.look()
    assert gone() is None
