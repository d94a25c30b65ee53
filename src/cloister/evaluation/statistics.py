"""Intervals by bootstrap: of a mean, of macro-F1, of the difference of two models on the same rows.

Every row is drawn with all that was measured on it, so differences are paired. Seeded: the same numbers give
the same intervals. Knows numbers only: no model, no text. BCa after Efron, "Better Bootstrap Confidence
Intervals", JASA 82 (1987); the acceleration of a mean is a sixth of its jackknife's skewness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 2000
"""Resamples of one interval."""
LEVEL = 0.95
_CHUNK = 1 << 20
"""Numbers that are drawn at once."""
_NORMAL = NormalDist()
_ALL_SIGNS = 12
"""Of so many rows every combination of signs is looked at, of more as many by chance."""
_MANY_MOVED = 100
"""From so many rows that differ on bootstrap intervals are told apart from 0 as often as they should."""


class Interval(msgspec.Struct, frozen=True):
    """A figure and where it lies with a confidence of `LEVEL`."""

    value: float
    low: float
    high: float


def mean(values: Floats, seed: int = 0) -> Interval:
    """The mean of `values` [rows], NaN where a row has none, with its BCa interval.

    Where all values are alike no resample differs, though another row might. Of shares (0 or 1) the interval is then
    the exact binomial one, of Clopper and Pearson; of other figures it has no width.

    Raises:
        ValueError: there is no value.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("an interval needs at least one value")
    found = float(values.mean())
    if np.ptp(values) == 0:
        return _alike(float(values[0]), len(values))
    means = np.concatenate([values[drawn].mean(axis=1) for drawn in _draws(len(values), seed)])
    centred = values - found
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    low, high = _bca(means, found, acceleration)
    return Interval(found, low, high)


def difference(ours: Floats, theirs: Floats, seed: int = 0) -> Interval:
    """The mean of `ours - theirs`, both [rows] on the same rows; rows that lack one of the two do not count.

    Where all rows gained the same, other rows may be as frequent as 1 - (α/2)^(1/n): of shares they gain -1 at worst
    and 1 at best. What signs drawn by chance would tell as well is not told from 0, see `_told_from_nothing`.
    """
    gained = ours - theirs
    known = ~np.isnan(gained)
    gained = gained[known]
    shares = np.stack([ours[known], theirs[known]])
    if not len(gained) or np.ptp(gained) > 0 or shares.min() < 0 or shares.max() > 1:
        return _told_from_nothing(mean(gained, seed), gained, seed)
    found, room = float(gained[0]), 1 - _tail(len(gained))
    return Interval(found, found - room * (found + 1), found + room * (1 - found))


def ratio(above: Floats, below: Floats, seed: int = 0) -> Interval:
    """The sum of `above` over the sum of `below`, both [rows], by percentiles: a loss in nats a token."""
    found = float(above.sum() / below.sum())
    drawn = np.concatenate(
        [above[rows].sum(axis=1) / below[rows].sum(axis=1) for rows in _draws(len(above), seed)]
    )
    return Interval(found, *_percentiles(drawn))


def ratio_difference(ours: Floats, theirs: Floats, below: Floats, seed: int = 0) -> Interval:
    """How much the ratio of `ours` is above that of `theirs` over the same `below`, as careful as `difference`."""
    gained = ours - theirs
    return _told_from_nothing(ratio(gained, below, seed), gained, seed)


def macro_f1(said: Sequence[int], wanted: Sequence[int], seed: int = 0) -> Interval:
    """Macro-F1 over the labels that occur, by percentiles. Labels are numbers from 0; -1 is an answer that is none.

    Where all answers are right, or all wrong, no resample differs: the interval is that of their share, see `mean`.
    """
    answers, truth = np.asarray(said), np.asarray(wanted)
    found = _macro_f1(answers, truth)
    if found in (0.0, 1.0):
        return _alike(found, len(truth))
    drawn = [
        _macro_f1(answers[row], truth[row]) for rows in _draws(len(truth), seed, DRAWS // 2) for row in rows
    ]
    return Interval(found, *_percentiles(np.asarray(drawn)))


def rows_needed(rows: int, interval: Interval, least: float) -> int:
    """So many rows like these would narrow the interval until it told `value`, or `least` if that is more, from 0."""
    half = (interval.high - interval.low) / 2
    aim = max(abs(interval.value), least)
    return max(rows, math.ceil(rows * (half / aim) ** 2))


def _macro_f1(said: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    size = int(max(said.max(), wanted.max())) + 1
    asked = np.bincount(wanted, minlength=size)
    named = np.bincount(said[said >= 0], minlength=size)
    hits = np.bincount(wanted[said == wanted], minlength=size)
    occurs = asked > 0
    return float((2 * hits[occurs] / (asked[occurs] + named[occurs])).mean())


def _draws(rows: int, seed: int, draws: int = DRAWS) -> Iterator[NDArray[np.int64]]:
    """Row numbers [some draws, rows], `draws` in all."""
    random = np.random.default_rng(seed % (1 << 64))
    at_once = max(1, min(draws, _CHUNK // max(rows, 1)))
    for start in range(0, draws, at_once):
        yield random.integers(0, rows, size=(min(at_once, draws - start), rows))


def _told_from_nothing(found: Interval, gained: Floats, seed: int) -> Interval:
    """The interval, widened to hold 0 where as large a sum of `gained` [rows] is no rarer than 1 - `LEVEL` among those
    with signs drawn by chance: of few rows bootstrap intervals are too narrow.

    Source: Fisher, The Design of Experiments (1935), section 21; for answers that are right or wrong it is McNemar's
    exact test.
    """
    moved = gained[gained != 0]
    if found.low <= 0 <= found.high or len(moved) > _MANY_MOVED:
        return found
    if len(moved) <= _ALL_SIGNS:
        bits = np.arange(1 << len(moved))[:, None] >> np.arange(len(moved)) & 1
    else:
        bits = np.random.default_rng(seed % (1 << 64)).integers(0, 2, size=(1 << _ALL_SIGNS, len(moved)))
    sums = np.abs((2 * bits - 1) @ moved)
    as_large = float((sums >= abs(float(moved.sum())) - 1e-9 * float(np.abs(moved).sum())).mean())
    if as_large <= 1 - LEVEL:
        return found
    return Interval(found.value, min(found.low, 0.0), max(found.high, 0.0))


def _bca(drawn: Floats, found: float, acceleration: float) -> tuple[float, float]:
    below = float((drawn < found).mean() + (drawn == found).mean() / 2)
    below = min(max(below, 1 / (2 * len(drawn))), 1 - 1 / (2 * len(drawn)))
    bias = _NORMAL.inv_cdf(below)

    def at(share: float) -> float:
        z = bias + _NORMAL.inv_cdf(share)
        return _NORMAL.cdf(bias + z / (1 - acceleration * z))

    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [at(tail), at(1 - tail)])
    return float(low), float(high)


def _percentiles(drawn: Floats) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _tail(rows: int) -> float:
    return float(((1 - LEVEL) / 2) ** (1 / rows))


def _alike(value: float, rows: int) -> Interval:
    if value == 1.0:
        return Interval(1.0, _tail(rows), 1.0)
    if value == 0.0:
        return Interval(0.0, 0.0, 1 - _tail(rows))
    return Interval(value, value, value)
