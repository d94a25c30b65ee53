"""Points of curves: merged by step, thinned without losing what matters, gone when the job begins anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from cloister.api import Metrics
from cloister.appliance.curves import add_point, forget_points, points
from cloister.appliance.state import Base

JOB, OTHER = "jb-000000000000", "jb-111111111111"


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        yield opened


def fill(session: Session, job: str, steps: int) -> None:
    for step in range(1, steps + 1):
        add_point(session, job, Metrics(step=step, values={"loss": 1 / step}))
    for step in range(100, steps + 1, 100):
        add_point(session, job, Metrics(step=step, values={"holdout_loss": 2.0}))


def test_what_is_said_of_one_step_stands_together_and_a_step_taken_again_replaces_itself(
    session: Session,
) -> None:
    fill(session, JOB, 100)
    fill(session, OTHER, 3)
    add_point(session, JOB, Metrics(step=7, values={"loss": 9.0}))
    found, thinned = points(session, JOB)
    assert not thinned and [point.step for point in found] == list(range(1, 101))
    assert found[-1].values == {"loss": 0.01, "holdout_loss": 2.0} and found[6].values == {"loss": 9.0}


@pytest.mark.parametrize("most", [2, 3, 10, 999, 1000])
def test_thinning_keeps_the_ends_and_the_hold_out(session: Session, most: int) -> None:
    fill(session, JOB, 1000)
    found, thinned = points(session, JOB, most)
    assert thinned == (most < 1000) and (found[0].step, found[-1].step) == (1, 1000)
    assert sum("holdout_loss" in point.values for point in found) == 10
    assert len(found) <= most + 12


def test_a_job_that_begins_anew_has_no_points(session: Session) -> None:
    fill(session, JOB, 10)
    fill(session, OTHER, 3)
    forget_points(session, JOB)
    assert points(session, JOB) == ([], False) and len(points(session, OTHER)[0]) == 3
