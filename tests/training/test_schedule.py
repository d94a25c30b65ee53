from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.api import TrainConfig
from cloister.training.schedule import due, plan_schedule


@settings(max_examples=60, derandomize=True)
@given(
    epochs=st.floats(0.01, 20),
    per_epoch=st.integers(1, 500),
    warmup=st.floats(0, 0.99),
    most=st.none() | st.integers(1, 1000),
)
def test_rates_rise_to_the_peak_once_and_then_fall(
    epochs: float, per_epoch: int, warmup: float, most: int | None
) -> None:
    config = TrainConfig(epochs=epochs, warmup_ratio=warmup, max_steps=most, learning_rate=1e-3)
    schedule = plan_schedule(config, per_epoch)
    rates = [schedule.rate(step) for step in range(schedule.total_steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(1e-3)
    assert most is None or len(rates) <= most


@pytest.mark.parametrize(("epochs", "steps"), [(3.0, 30), (0.1, 1), (0.01, 1), (1.25, 13), (0.3, 3)])
def test_a_broken_epoch_counts_whole_steps(epochs: float, steps: int) -> None:
    assert plan_schedule(TrainConfig(epochs=epochs), 10).total_steps == steps


def test_a_share_that_is_whole_steps_is_not_one_more() -> None:
    config = TrainConfig(epochs=1, warmup_ratio=0.07)
    assert plan_schedule(config, 100).warmup_steps == 7, "0.07 * 100 is a little more than 7 in binary"
    assert plan_schedule(config, 101).warmup_steps == 8


@given(per_epoch=st.integers(1, 40), steps=st.integers(1, 300), epochs=st.integers(1, 4))
def test_what_comes_several_times_an_epoch_comes_exactly_so_often_and_at_its_end(
    per_epoch: int, steps: int, epochs: int
) -> None:
    found = [step for step in range(1, epochs * steps + 1) if due(step, 0, float(per_epoch), steps)]
    assert len(found) == epochs * min(per_epoch, steps)
    assert {epoch * steps for epoch in range(1, epochs + 1)} <= set(found)
    apart = [after - before for before, after in zip([0, *found], found, strict=False)]
    assert max(apart) - min(apart) <= 1, "evenly spread"


def test_so_many_steps_count_on_over_epochs_and_a_share_skips_some() -> None:
    assert [step for step in range(1, 31) if due(step, 7, 1.0, 10)] == [7, 14, 21, 28]
    assert [step for step in range(1, 41) if due(step, 0, 0.5, 10)] == [20, 40]
    assert [step for step in range(1, 31) if due(step, 0, 3.333333333, 10)] == [*range(3, 31, 3)]
