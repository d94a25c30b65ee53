"""A job as a row: its verbs, its states, how it is made and told of. It knows nothing of sandboxes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy.orm import Session

from cloister.api import JobState, ObjectKind, RotateConfig
from cloister.appliance.ids import new_id
from cloister.appliance.state import JobRow, ObjectRow
from cloister.appliance.store import Change
from cloister.errors import Conflict, NotFound

OUTPUT_KIND = {
    "import": ObjectKind.DATASET,
    "base": ObjectKind.BASE,
    "train": ObjectKind.ADAPTER,
    "evaluate": ObjectKind.EVALUATION,
    "merge": ObjectKind.MODEL,
    "forget": ObjectKind.DATASET,
    "derive": ObjectKind.DATASET,
}
EXPORT = "export"
"""The verb that makes no object: what it is about goes out through a pipe."""
DRY_RUN = "dry-run"
"""The verb that reads a source as an import does, and makes nothing."""
ERRORS = "errors"
"""The verb that shows a person what an evaluation holds; it makes no object either."""
LIGHT = frozenset({"import", DRY_RUN, "base", "rows", "render", EXPORT, ERRORS})
"""What waits for a client's descriptors."""
CONTENT = frozenset({"forget", "derive"})
"""What has settings that are content, and are kept in memory only."""
SHORT = LIGHT | CONTENT | {"report"}
"""What takes a light slot, and leaves nothing behind where it ends badly."""
RESUMABLE = frozenset({"train", "evaluate", "merge"})
OF_RUNS = frozenset({"train", "evaluate"})
"""What the commands on runs go on with."""
PENDING = (JobState.WAITING_SOURCE, JobState.QUEUED, JobState.RUNNING)


def places_of(row: JobRow) -> int:
    """How many places it takes at once: a training one for each of its processes."""
    return int(row.config.get("processes", 1)) if row.verb == "train" else 1


Finished = Callable[[Change, JobRow, ObjectRow], None]
"""What follows from a job, in the commit that ends it."""

Completion = Callable[[str, dict[str, Any], int], Awaitable[None]]
"""Takes in a job's result where it is no new object: the job's id, its values, the index of its entry. Asked
again after a crash, it goes on."""


def new_job(
    change: Change,
    peer_account: str,
    verb: str,
    name: str,
    config: dict[str, Any],
    inputs: Mapping[str, ObjectRow],
    *,
    waits_for_source: bool = False,
    output: tuple[str, int] | None = None,
    priority: int = 0,
    job_id: str | None = None,
) -> JobRow:
    """Add a job, frozen as it is now. The caller has recorded it already.

    `output` is the object version that it makes, where that is not the first one of a new object. `job_id` is
    one that the entry names already.
    """
    makes = OUTPUT_KIND.get(verb)
    row = JobRow(
        job_id=job_id or new_id("job"),
        verb=verb,
        state=JobState.WAITING_SOURCE if waits_for_source else JobState.QUEUED,
        subject=output[0] if output else new_id(makes) if makes else None,
        output_version=output[1] if output else 1,
        name=name,
        config=config,
        inputs={
            role: {
                "object_id": row.object_id,
                "version": row.version,
                "manifest_sha256": row.manifest_sha256,
            }
            for role, row in inputs.items()
        },
        requested_by=peer_account,
        priority=priority,
        created_at=change.now,
        attempts=0,
        resume=False,
        last_event=0,
        metrics={},
        result={},
    )
    change.session.add(row)
    change.session.flush()
    announce(change, row)
    return row


def made_by(job: JobRow) -> tuple[ObjectKind, int]:
    """Kind and version of the object that a job makes."""
    if job.verb in OUTPUT_KIND:
        return OUTPUT_KIND[job.verb], job.output_version
    return RotateConfig.model_validate(job.config).kind, job.output_version


def job_row(change: Change, job_id: str) -> JobRow:
    """Errors: NotFound."""
    row = change.session.get(JobRow, job_id)
    if row is None:
        raise NotFound("there is no job of that id", where=job_id)
    return row


def refuse_resume(session: Session, row: JobRow) -> None:
    """Errors: Conflict where a job has not ended, or has its result; also that of a run that went wrong."""
    if row.state not in (JobState.INTERRUPTED, JobState.CANCELLED, JobState.FAILED, JobState.PAUSED):
        raise Conflict(
            f"the job is {row.state}; only one that ended without its result goes on, or begins anew",
            where=row.job_id,
        )
    if row.verb == "train" and session.get(ObjectRow, (row.subject, row.output_version)) is not None:
        raise Conflict(
            "the run went wrong, and would again; its adapter from before that is kept",
            where=row.name,
            remedy="Start another run with a lower learning rate; `cloister run show` says what is kept.",
        )


def announce(change: Change, row: JobRow) -> None:
    change.event("job.state", row.job_id, state=row.state, verb=row.verb, name=row.name)
