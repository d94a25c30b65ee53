"""One commit in which everything that a shred destroys becomes a tombstone, and no figure drawn from it stays."""

from __future__ import annotations

from sqlalchemy import delete

from cloister.api import JobState, Problem, ShredPlan
from cloister.appliance.curves import forget_points
from cloister.appliance.state import EventRow, JobRow, ObjectRow, RunRow, ShredRow, TombstoneRow
from cloister.appliance.store import Change


def bury(change: Change, shred_id: str, plan: ShredPlan, index: int) -> None:
    """Tombstones in the place of everything, and no figure left that was drawn from it."""
    session = change.session
    row = session.get_one(ShredRow, shred_id)
    row.state, row.ledger_index, row.final_after = "intended", index, plan.final_after
    row.items = [{"kind": i.kind, "object_id": i.object_id, "version": i.version} for i in plan.items]
    row.jobs = plan.jobs
    row.sealed_bytes = sum(item.sealed_bytes for item in plan.items)

    def tombstone(kind: str, object_id: str, version: int, name: str) -> None:
        session.merge(
            TombstoneRow(
                object_id=object_id,
                version=version,
                kind=kind,
                name=name,
                shredded_at=change.now,
                shredded_by=row.asked_by,
                shred_id=shred_id,
                ledger_index=index,
            )
        )

    for item in plan.items:
        tombstone(item.kind, item.object_id, item.version, item.name)
        stored = session.get(ObjectRow, (item.object_id, item.version))
        if stored is not None:
            session.delete(stored)
        change.event(f"{item.kind}.shredded", item.object_id, name=item.name, version=item.version)
    for run_id, name in plan.runs.items():
        tombstone("run", run_id, 0, name)
        session.delete(session.get_one(RunRow, run_id))
        change.event("run.shredded", run_id, name=name)
    for job_id in plan.jobs:
        job = session.get_one(JobRow, job_id)
        if job.state != JobState.DONE:
            job.state, job.error = JobState.CANCELLED, _shredded(row)
        job.metrics, job.result, job.progress = {}, {}, None
        forget_points(session, job_id)
        session.execute(delete(EventRow).where(EventRow.subject == job_id))
        change.event("job.state", job_id, state=job.state, verb=job.verb, name=job.name)
    change.event("shred.state", shred_id, state=row.state, name=row.name)


def _shredded(row: ShredRow) -> dict[str, object]:
    detail = f"what it read or made was shredded with {row.kind} {row.name} by {row.asked_by}"
    return Problem(title="Shredded", status=410, code="shredded", detail=detail).model_dump()
