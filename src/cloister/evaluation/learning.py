"""A learning curve: what more rows would bring, told from runs on seeded parts of the same training side.

The curve is a power law with a floor, `a + b · rows^-c`, as losses and error rates follow it (Hestness et al., "Deep
Learning Scaling is Predictable, Empirically", arXiv:1712.00409). Knows numbers only: no model, no run, no text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import msgspec
import numpy as np

from cloister.evaluation.statistics import DRAWS, LEVEL, Floats, Interval

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at `LEVEL`, two-sided, for 1 to 9 degrees of freedom."""
MOST_SEEDS = len(_T) + 1
SIZES_FOR_A_CURVE = 3
FEW_ROWS = 1000
"""A curve that ends below so many rows is said to tell little."""
_EXPONENTS: Floats = np.geomspace(0.05, 2.0, 120)

Runs = Mapping[int, Sequence[float]]
"""By rows, one figure a seed, the lower the better: a loss, or a share of errors."""


class Curve(msgspec.Struct, frozen=True):
    """`floor + scale · rows^-exponent`, and what twice the `rows` of the largest part would take off the figure."""

    floor: float
    scale: float
    exponent: float
    rows: int
    gain: Interval

    def at(self, rows: float) -> float:
        """The figure that the curve gives for so many rows."""
        return float(self.floor + self.scale * rows**-self.exponent)


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean over seeds with Student's interval; of one seed nothing is known beside its value (NaN).

    Raises:
        ValueError: there is none, or more than `MOST_SEEDS`.
    """
    if not 0 < len(values) <= MOST_SEEDS:
        raise ValueError(f"an interval over seeds takes 1 to {MOST_SEEDS} of them")
    middle = fmean(values)
    if len(values) == 1:
        return Interval(middle, math.nan, math.nan)
    half = _T[len(values) - 2] * stdev(values) / math.sqrt(len(values))
    return Interval(middle, middle - half, middle + half)


def fit(runs: Runs, seed: int = 0) -> Curve | None:
    """The curve through the means, each counted as often as it has seeds; None with fewer than three sizes.

    The gain's interval comes of drawing the means anew: around each, as far as seeds differ from one another (one
    relative spread of all sizes, with Student's tails). None either where no size has two seeds: no interval, no curve.
    """
    sizes = sorted(size for size, values in runs.items() if values)
    spread, freedom = _spread([runs[size] for size in sizes])
    if len(sizes) < SIZES_FOR_A_CURVE or not freedom:
        return None
    rows = np.asarray(sizes, dtype=np.float64)
    seeds = np.asarray([len(runs[size]) for size in sizes], dtype=np.float64)
    means = np.asarray([fmean(runs[size]) for size in sizes])
    random = np.random.default_rng(seed)
    noise = random.standard_t(freedom, size=(DRAWS, len(sizes))) * spread / np.sqrt(seeds)
    laws = _laws(rows, np.vstack([means, np.maximum(means * (1 + noise), 0.0)]), seeds)
    gains = _gains(laws, sizes[-1])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(gains[1:], [tail, 1 - tail])
    floor, scale, exponent = (float(values[0]) for values in laws)
    return Curve(floor, scale, exponent, sizes[-1], Interval(float(gains[0]), float(low), float(high)))


def foretold(runs: Runs) -> tuple[float, float] | None:
    """What the curve without the largest part says of it, and what was measured there; None where none is left."""
    sizes = sorted(size for size, values in runs.items() if values)
    rest = fit({size: runs[size] for size in sizes[:-1]})
    return None if rest is None else (rest.at(sizes[-1]), fmean(runs[sizes[-1]]))


def sentences(
    runs: Runs, found: Curve | None, *, what: str, holdout_rows: int | None, share: bool = False
) -> list[str]:
    """What the curve says, and what it does not, in words.

    Args:
        what: the figure's name, as it goes into a sentence.
        holdout_rows: how many rows all were measured on.
        share: the figure is a share of those rows, whose own chance is then told.
    """
    if any(runs.values()) and not any(any(values) for values in runs.values()):
        nothing = f"The {what} is 0 in every run: there is nothing that more rows would take off it."
        return [nothing, *_left_out(runs, what, holdout_rows, share)]
    if found is None:
        none = "A curve takes at least three sizes, and two seeds of one of them: nothing is predicted."
        return [
            none,
            *(_left_out(runs, what, holdout_rows, share) if any(len(v) > 1 for v in runs.values()) else ()),
        ]
    gain, here = found.gain, found.at(found.rows)
    said = []
    if gain.low > 0 and gain.value > 0:
        said.append(
            f"Twice the rows ({2 * found.rows}) would take about {gain.value:.3g} off the {what}, which is {here:.3g} "
            f"at {found.rows}: between {gain.low:.2g} and {gain.high:.2g}, if the curve goes on as it went."
        )
    else:
        said.append(
            f"What twice the rows ({2 * found.rows}) would bring is not told from nothing by these runs: between "
            f"{gain.low:.2g} and {gain.high:.2g} off the {what}, which is {here:.3g} at {found.rows}."
        )
    check = foretold(runs)
    if check is not None:
        said.append(
            f"Without its largest part the curve says {check[0]:.3g} there; measured were {check[1]:.3g}."
        )
    said.append(
        f"No part was larger than {found.rows} rows: this is an extrapolation, of runs of the same settings."
    )
    if found.rows < FEW_ROWS:
        said.append(
            f"The largest part has {found.rows} rows: few tell less than thousands do, and the curve may bend later."
        )
    return [*said, *_left_out(runs, what, holdout_rows, share)]


def _left_out(runs: Runs, what: str, holdout_rows: int | None, share: bool) -> list[str]:
    """What intervals over seeds do not know: that other rows might have been held out."""
    if not holdout_rows:
        return []
    chance = ""
    if share:
        error = min(max(fmean(runs[max(runs)]), 1 / (holdout_rows + 2)), 1 - 1 / (holdout_rows + 2))
        chance = f": about ±{1.96 * math.sqrt(error * (1 - error) / holdout_rows):.2g} of the {what}"
    return [
        f"Intervals are over seeds, each with rows and an order of its own. All were measured on the same "
        f"{holdout_rows} held-out rows, whose own chance they leave out{chance}."
    ]


def _spread(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """How far seeds of one size differ, relative to their mean, over all sizes; and its degrees of freedom."""
    squares, freedom = 0.0, 0
    for values in groups:
        middle = fmean(values)
        if len(values) > 1 and middle:
            squares += (len(values) - 1) * (stdev(values) / middle) ** 2
            freedom += len(values) - 1
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def _laws(rows: Floats, means: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Floor, scale and exponent of least squares for each line of `means` [lines, sizes]; no floor is below 0.

    A scale may be: then more rows make it worse, and only so can a curve be told from none.
    """
    x = (rows / rows[0])[None, :] ** -_EXPONENTS[:, None]
    share = weights / weights.sum()
    x_mean, y_mean = x @ share, means @ share
    apart = (x - x_mean[:, None]) * share
    scale = (means - y_mean[:, None]) @ apart.T / (apart * (x - x_mean[:, None])).sum(axis=1)
    floor = y_mean[:, None] - scale * x_mean
    without = means @ (x * share).T / (x * x @ share)
    scale, floor = np.where(floor < 0, without, scale), np.maximum(floor, 0.0)
    lost = ((means[:, None, :] - floor[..., None] - scale[..., None] * x) ** 2) @ share
    best = lost.argmin(axis=1)
    line = np.arange(len(means))
    exponent = _EXPONENTS[best]
    return floor[line, best], scale[line, best] * rows[0] ** exponent, exponent


def _gains(laws: tuple[Floats, Floats, Floats], rows: int) -> Floats:
    _, scale, exponent = laws
    gains: Floats = scale * (rows**-exponent - (2 * rows) ** -exponent)
    return gains
