"""Which numbers of a run are drawn, and what two runs are compared by."""

from __future__ import annotations

import pytest

from cloister.api import Curve, CurvePoint, Run, TrainConfig
from cloister.cli import curves
from cloister.errors import NotFound


def curve(*names: str) -> Curve:
    return Curve(run_id="r", name="r", points=[CurvePoint(step=1, values=dict.fromkeys(names, 1.0))])


def test_what_was_not_measured_is_not_drawn_as_nothing() -> None:
    both = [curve("learning_rate", "loss"), curve("loss", "holdout_loss")]
    assert curves._names(both, None, ("holdout_loss",)) == ["holdout_loss"]
    assert curves._names(both[:1], None, curves.SHOWN) == ["loss"]
    assert curves._names(both, ["holdout_loss", "loss"], ()) == ["holdout_loss", "loss"]
    with pytest.raises(NotFound) as caught:
        curves._names(both, ["los"], ())
    assert "learning_rate, loss, holdout_loss" in str(caught.value.remedy)


def test_where_a_run_went_on_from_is_a_setting_of_it() -> None:
    runs = [
        Run.model_construct(
            dataset="d", base="b", holdout=None, train=TrainConfig(), evaluate=None, from_run=from_run
        )
        for from_run in (None, "rn-0123456789ab")
    ]
    differing = [name for name, one, other in curves._settings(*runs) if one != other]
    assert differing == ["from run"]
