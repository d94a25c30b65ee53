"""The plan of an epoch: every row once, batches of like length, the same plan when asked again."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.datasets import plan_epoch


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 500), max_size=300), st.integers(1, 17), st.integers(), st.integers(0, 9))
def test_every_row_once_in_full_batches(lengths, batch_size, seed, epoch):
    plan = plan_epoch(lengths, batch_size, seed, epoch)
    assert sorted(position for batch in plan for position in batch) == list(range(len(lengths)))
    full = [batch for batch in plan if len(batch) == batch_size]
    assert len(plan) - len(full) <= 1
    assert plan == plan_epoch(lengths, batch_size, seed, epoch)


def test_epochs_and_seeds_differ():
    lengths = list(range(200))
    plans = [plan_epoch(lengths, 8, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(one != two for n, one in enumerate(plans) for two in plans[:n])


def test_little_is_padded():
    generator = random.Random(0)
    lengths = [generator.randint(10, 400) for _ in range(5000)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan_epoch(lengths, 16, 0, 0))
    assert padded < 1.05 * sum(lengths)
