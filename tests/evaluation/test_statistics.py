"""Intervals against scipy and known values, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cloister.evaluation import metrics
from cloister.evaluation.statistics import (
    Interval,
    difference,
    macro_f1,
    mean,
    ratio,
    ratio_difference,
    rows_needed,
)


def test_a_mean_agrees_with_scipys_bca() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    found = mean(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9999, method="BCa", random_state=1)
    low, high = theirs.confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert found.high - found.value > found.value - found.low, "the tail is on the right"
    assert mean(values) == found, "seeded"


def test_where_no_value_differs_the_interval_is_the_binomial_one() -> None:
    for right, sides in ((20, stats.binomtest(20, 20)), (0, stats.binomtest(0, 20))):
        exact = sides.proportion_ci(method="exact")
        found = mean(np.full(20, right / 20))
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert mean(np.full(7, 0.4)) == Interval(0.4, 0.4, 0.4)
    same = np.array([1.0, 0, 1, 1] * 10)
    equal = difference(same, same)
    assert equal.value == 0 and equal.low == pytest.approx(-equal.high) == pytest.approx(-0.088, abs=1e-3)


def test_a_mean_leaves_out_rows_that_have_none() -> None:
    values = np.array([1.0, np.nan, 0.0, np.nan, 1.0])
    assert mean(values).value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="at least one"):
        mean(np.array([np.nan]))


@pytest.mark.parametrize(("share", "rows"), [(0.8, 60), (0.5, 40), (0.95, 120)])
def test_an_interval_holds_the_truth_as_often_as_it_says(share: float, rows: int) -> None:
    draw = np.random.default_rng(11)
    inside = [
        (found := mean((draw.random(rows) < share).astype(float), seed=i)).low <= share <= found.high
        for i in range(250)
    ]
    assert 0.9 <= np.mean(inside) <= 0.995


def test_a_paired_difference_is_narrower_than_two_means_and_holds_the_truth() -> None:
    draw, inside, narrower = np.random.default_rng(5), [], []
    for i in range(200):
        hard = draw.random(80)
        ours, theirs = (hard < 0.8).astype(float), (hard < 0.7).astype(float)
        found = difference(ours, theirs, seed=i)
        inside.append(found.low <= 0.1 <= found.high)
        apart = mean(ours), mean(theirs)
        narrower.append(found.high - found.low < sum(one.high - one.low for one in apart))
    assert 0.88 <= np.mean(inside) <= 1 and np.mean(narrower) > 0.95


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 12])
def test_of_few_rows_two_alike_are_told_apart_no_oftener_than_one_in_forty(rows: int) -> None:
    """Right and wrong answers, shares, and losses of texts: bootstrap alone says so of up to half of all cases."""
    draw, told = np.random.default_rng(7), {"right": 0, "share": 0, "loss": 0}
    for i in range(400):
        right = (draw.random((2, rows)) < 0.5).astype(float)
        share, tokens = draw.beta(2, 2, (2, rows)), draw.integers(20, 400, rows).astype(float)
        nats = draw.normal(2, 0.3, (2, rows)) * tokens
        told["right"] += difference(*right, seed=i).low > 0
        told["share"] += difference(*share, seed=i).low > 0
        told["loss"] += ratio_difference(*nats, tokens, seed=i).low > 0
    assert all(count / 400 <= 0.025 + 0.02 for count in told.values()), told


@pytest.mark.parametrize(
    ("better", "worse", "same"), [(5, 0, 0), (6, 0, 0), (8, 1, 3), (7, 2, 40), (30, 14, 100)]
)
def test_answers_that_are_right_or_wrong_are_told_apart_where_mcnemars_exact_test_does(
    better: int, worse: int, same: int
) -> None:
    ours = np.array([1.0] * better + [0.0] * worse + [1.0] * same)
    theirs = np.array([0.0] * better + [1.0] * worse + [1.0] * same)
    exact = stats.binomtest(better, better + worse).pvalue <= 0.05
    assert (difference(ours, theirs).low > 0) == exact == (difference(theirs, ours).high < 0)


def test_rows_that_all_gain_the_same_leave_room_for_those_that_do_not() -> None:
    all_won = difference(np.ones(10), np.zeros(10))
    assert all_won.value == all_won.high == 1 and all_won.low == pytest.approx(1 - 2 * (1 - 0.025**0.1))
    equal = difference(np.full(3, 0.4), np.full(3, 0.4))
    assert equal.value == 0 and equal.low == -equal.high < -0.5, "three equal shares prove little"
    assert difference(np.full(9, 2.5), np.full(9, 0.5)) == Interval(2.0, 2.0, 2.0), "of no known scale"


@pytest.mark.parametrize("rows", [2, 20])
def test_macro_f1_of_few_answers_that_are_alike_is_as_unsure_as_their_share(rows: int) -> None:
    """A policy may ask for its lower end: two right answers of two are no certainty."""
    wanted = [row % 2 for row in range(rows)]
    assert macro_f1(wanted, wanted) == mean(np.ones(rows)) and macro_f1(wanted, wanted).low < 0.84
    wrong = [-1] * rows
    assert macro_f1(wrong, wanted) == mean(np.zeros(rows)) and macro_f1(wrong, wanted).high > 0.16


def test_macro_f1_is_that_of_the_answers() -> None:
    draw = np.random.default_rng(2)
    wanted = draw.integers(0, 5, 200)
    said = np.where(draw.random(200) < 0.7, wanted, draw.integers(-1, 5, 200))
    found = macro_f1(said.tolist(), wanted.tolist())
    assert found.value == pytest.approx(metrics.macro_f1(list(map(str, said)), list(map(str, wanted))))
    assert found.low < found.value < found.high and found.high - found.low < 0.2


def test_a_ratio_is_of_the_sums() -> None:
    nats, tokens = np.array([10.0, 2.0, 30.0] * 20), np.array([10.0, 4.0, 20.0] * 20)
    found = ratio(nats, tokens)
    assert found.value == pytest.approx(42 / 34) and found.low < found.value < found.high
    less = ratio_difference(nats, nats - tokens / 2, tokens)
    assert less.value == pytest.approx(0.5) == less.low


def test_how_many_rows_would_tell() -> None:
    assert rows_needed(50, Interval(0.05, -0.05, 0.15), 0.03) == 200
    assert rows_needed(50, Interval(0.0, -0.12, 0.12), 0.03) == 800
