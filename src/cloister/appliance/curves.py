"""The curves of runs: what a job measured at each step, kept for as long as the run is.

Numbers by name; it does not know what they mean, nor who draws them.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from cloister.api import CurvePoint, Metrics
from cloister.appliance.state import PointRow

MOST = 2000
"""Points that are told unless more are asked for: no screen shows as many."""


def add_point(session: Session, job_id: str, said: Metrics) -> None:
    """Numbers of one step, beside what was said of it already. A step that is taken again replaces itself."""
    found = session.get(PointRow, (job_id, said.step))
    if found is None:
        session.add(PointRow(job_id=job_id, step=said.step, values=dict(said.values)))
    else:
        found.values = {**found.values, **said.values}


def forget_points(session: Session, job_id: str) -> None:
    """The job begins anew, or is shredded."""
    session.execute(delete(PointRow).where(PointRow.job_id == job_id))


def points(session: Session, job_id: str, most: int = MOST) -> tuple[list[CurvePoint], bool]:
    """A job's points by step, at most about `most`; whether some were left out.

    Thinned evenly, but never a point with a figure of the hold-out, nor the first and the last.
    """
    count = session.scalar(select(func.count()).where(PointRow.job_id == job_id)) or 0
    every = -(-count // most) if most else 1
    kept: list[CurvePoint] = []
    rows = session.execute(
        select(PointRow.step, PointRow.values).where(PointRow.job_id == job_id).order_by(PointRow.step)
    )
    for number, (step, values) in enumerate(rows):
        ends = number in (0, count - 1)
        if number % every == 0 or ends or any(name.startswith("holdout") for name in values):
            kept.append(CurvePoint(step=step, values=values))
    return kept, len(kept) < count
