"""The learning curve against curves that are known, and what it says of too little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cloister.evaluation.learning import Curve, fit, foretold, over_seeds, sentences

SIZES = (50, 100, 200, 400, 800, 1600)


def runs(noise: float, *, seeds: int = 3, scale: float = 20.0, seed: int = 0) -> dict[int, list[float]]:
    """Figures of 0.4 + scale · rows^-0.6, with relative noise."""
    random = np.random.default_rng(seed)
    return {
        rows: [
            float((0.4 + scale * rows**-0.6) * (1 + noise * random.standard_normal())) for _ in range(seeds)
        ]
        for rows in SIZES
    }


def test_a_known_curve_is_found_and_foretells_its_last_size() -> None:
    found = fit(runs(1e-6))
    assert found is not None
    assert found.at(3200) == pytest.approx(0.4 + 20 * 3200**-0.6, rel=0.01)
    truth = 20 * (1600**-0.6 - 3200**-0.6)
    assert found.gain.low <= found.gain.value <= found.gain.high and found.gain.value == pytest.approx(
        truth, rel=0.05
    )
    check = foretold(runs(1e-6))
    assert check is not None and check[0] == pytest.approx(check[1], rel=0.01)


def test_the_interval_holds_the_true_gain_about_as_often_as_it_says() -> None:
    truth = 20 * (1600**-0.6 - 3200**-0.6)
    intervals = [found.gain for seed in range(20) if (found := fit(runs(0.02, seed=seed), seed)) is not None]
    held = sum(one.low <= truth <= one.high for one in intervals)
    assert len(intervals) == 20 and held >= 16
    assert all(one.high < 5 * truth for one in intervals), "nor is it so wide that it always would"


def test_where_nothing_is_learnt_nothing_is_promised() -> None:
    found = [fit(runs(0.02, scale=0.0, seed=seed)) for seed in range(20)]
    assert sum(one is not None and one.gain.low <= 0 <= one.gain.high for one in found) >= 16
    flat = runs(0.02, scale=0.0, seed=1)
    told = sentences(flat, found[1], what="loss", holdout_rows=100)
    assert "is not told from nothing" in told[0] and not any("would take about" in line for line in told)


@pytest.mark.parametrize(
    "given", [{50: [1.0, 1.1], 100: [0.9, 0.8]}, {50: [1.0], 100: [0.9], 200: [0.8]}, {}]
)
def test_too_few_sizes_or_seeds_make_no_curve(given: dict[int, list[float]]) -> None:
    assert fit(given) is None
    told = sentences(given, None, what="loss", holdout_rows=9)
    assert (
        told[0] == "A curve takes at least three sizes, and two seeds of one of them: nothing is predicted."
    )
    intervals = any(len(values) > 1 for values in given.values())
    assert len(told) == 1 + intervals and ("9 held-out rows, whose own chance" in " ".join(told)) == intervals


def test_seeds_that_agree_do_not_hide_how_few_rows_were_held_out() -> None:
    """Both seeds got none of 49 right: 0 (0 to 0) is of the seeds, and the chance of the rows is told."""
    (_, told) = sentences({20: [1.0, 1.0], 40: [1.0, 1.0]}, None, what="error", holdout_rows=49, share=True)
    assert "49 held-out rows" in told and "about ±0.039 of the error" in told


def test_where_nothing_is_wrong_no_runs_are_asked_for() -> None:
    perfect = {rows: [0.0, 0.0] for rows in SIZES}
    told = sentences(perfect, fit(perfect), what="error (accuracy)", holdout_rows=47, share=True)
    assert "is 0 in every run" in told[0] and "three sizes" not in " ".join(told)
    assert "47 held-out rows" in told[1], "which may have been lucky ones"


def test_what_it_leaves_out_is_said() -> None:
    few = {rows: [value * 0.3 for value in values] for rows, values in runs(0.01).items() if rows <= 400}
    found = fit(few)
    assert isinstance(found, Curve)
    told = " ".join(sentences(few, found, what="errors", holdout_rows=100, share=True))
    assert "extrapolation" in told and "The largest part has 400 rows" in told
    error = np.mean(few[400])
    assert f"±{1.96 * math.sqrt(error * (1 - error) / 100):.2g}" in told
    assert "The largest part" not in " ".join(
        sentences(runs(0.01), fit(runs(0.01)), what="loss", holdout_rows=1)
    )


def test_an_interval_over_seeds_is_students() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.value == 2.0 and found.high == pytest.approx(2 + 4.303 / math.sqrt(3))
    assert math.isnan(over_seeds([1.0]).low)
    with pytest.raises(ValueError, match="1 to 10"):
        over_seeds([])
