"""Bins and shares: every row once, nothing over the brim, the same for the same lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloister.datasets.packing import first_fit_decreasing, share

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=60)


@given(LENGTHS, st.integers(100, 400))
def test_bins_hold_every_row_once_and_no_more_than_fits(lengths: list[int], capacity: int) -> None:
    bins = first_fit_decreasing(lengths, capacity)
    assert sorted(i for each in bins for i in each) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in each) for each in bins]
    assert max(sums) <= capacity
    # Two bins that are both at most half full would have become one.
    assert sum(total * 2 <= capacity for total in sums) <= 1
    assert bins == first_fit_decreasing(lengths, capacity)


def test_what_is_longer_than_a_bin_gets_its_own() -> None:
    assert first_fit_decreasing([3, 20, 4], 10) == [[1], [2, 0]]


@given(LENGTHS, st.integers(1, 8))
def test_shares_are_even(lengths: list[int], parts: int) -> None:
    shares = share(lengths, parts)
    assert len(shares) == parts
    assert sorted(i for each in shares for i in each) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in each) for each in shares]
    assert max(sums) - min(sums) <= max(lengths)
