"""A run as a row: found by name or id, and what follows when one of its jobs is done."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.appliance.jobs import new_job
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.appliance.store import Change
from cloister.appliance.tombstones import refuse_shredded
from cloister.errors import Conflict, NotFound


def find_run(session: Session, reference: str) -> RunRow:
    """The run of this name, id, or id of one of its jobs. Errors: NotFound, Shredded."""
    row: RunRow | None = session.scalars(
        select(RunRow)
        .where((RunRow.run_id == reference) | (RunRow.name == reference))
        .order_by((RunRow.run_id == reference).desc())
    ).first()
    if row is None:
        row = session.scalars(
            select(RunRow).where((RunRow.train_job == reference) | (RunRow.evaluate_job == reference))
        ).first()
    if row is None:
        refuse_shredded(session, "run", reference)
        raise NotFound(
            "there is no run of that name or id", where=reference[:64], remedy="See `cloister run list`."
        )
    return row


def refuse_taken_run(session: Session, name: str) -> None:
    """Errors: Conflict."""
    if session.scalars(select(RunRow).where(RunRow.name == name)).first() is not None:
        raise Conflict("a run of that name exists", where=name, remedy="Choose another name.")


def after_job(change: Change, job: JobRow, stored: ObjectRow) -> None:
    """What follows from a job, in the same commit: a run's adapter, then its evaluation."""
    column = RunRow.train_job if job.verb == "train" else RunRow.evaluate_job
    run = change.session.scalars(select(RunRow).where(column == job.job_id)).first()
    if run is None:
        return
    if job.verb == "train":
        run.adapter = stored.object_id
        if run.evaluate is not None:
            inputs = {
                role: change.session.get_one(ObjectRow, (reference["object_id"], reference["version"]))
                for role, reference in job.inputs.items()
            }
            inputs["adapter"] = stored
            row = new_job(
                change, job.requested_by, "evaluate", run.name, run.evaluate, inputs, priority=job.priority
            )
            run.evaluate_job = row.job_id
    else:
        run.evaluation = job.result
    change.event("run.updated", run.run_id, name=run.name)
