"""What was derived from what, read off the jobs that made it: dataset, adapter, evaluation, merged model.

Follows object versions, not names. Decides nothing and opens nothing. The version that a `forget` made is no
descendant: it holds what remains of its predecessor, and outlives it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import DeploymentState
from cloister.appliance.jobs import PENDING
from cloister.appliance.state import DeploymentRow, HoldRow, JobRow, ObjectRow, RunRow, TombstoneRow

Version = tuple[str, int]
"""Object id and version."""

SUCCESSOR = "forget"
"""The verb whose output is the next version of its input, of other content."""

RESEALED = "rotate"
"""The verb whose output has the content of its input: what was made from one was made from the other."""

SERVED = (
    DeploymentState.STARTING,
    DeploymentState.READY,
    DeploymentState.RESTARTING,
    DeploymentState.STOPPING,
)


@dataclass(frozen=True)
class Lineage:
    """Some object versions with everything that was made from them, whether or not it was finished.

    `versions` in the order in which they were made, the roots first. `stored` are those in the store.
    `makers` are all jobs that made or were to make one; `using` are those of them, and of jobs that read
    one, which have not ended.
    """

    versions: tuple[Version, ...]
    stored: tuple[ObjectRow, ...]
    runs: tuple[RunRow, ...]
    makers: tuple[JobRow, ...]
    using: tuple[JobRow, ...]
    served: tuple[DeploymentRow, ...]


def lineage(session: Session, roots: Iterable[Version]) -> Lineage:
    """Everything derived from `roots`, themselves included."""
    jobs = session.scalars(select(JobRow).order_by(JobRow.created_at)).all()
    reads = {job.job_id: _inputs(job) for job in jobs}
    found: dict[Version, None] = dict.fromkeys(roots)
    pending = list(found)
    while pending:
        version = pending.pop(0)
        for job in jobs:
            made = _output(job)
            if made is None or job.verb == SUCCESSOR:
                continue
            reached = [made] if version in reads[job.job_id] else []
            if job.verb == RESEALED and made == version:
                reached += reads[job.job_id]
            for other in reached:
                if other not in found:
                    found[other] = None
                    pending.append(other)
    makers = [job for job in jobs if _output(job) in found]
    using = [
        job
        for job in jobs
        if job.state in PENDING and (_output(job) in found or reads[job.job_id] & set(found))
    ]
    rows = {(row.object_id, row.version): row for row in session.scalars(select(ObjectRow))}
    ids = {object_id for object_id, _ in found}
    made_by = {job.job_id for job in makers}
    return Lineage(
        versions=tuple(found),
        stored=tuple(rows[version] for version in found if version in rows),
        runs=tuple(run for run in session.scalars(select(RunRow)) if run.train_job in made_by),
        makers=tuple(makers),
        using=tuple(using),
        served=tuple(
            row for row in session.scalars(select(DeploymentRow)) if row.model in ids and row.state in SERVED
        ),
    )


def next_version(session: Session, object_id: str) -> int:
    """A version of an object that there never was, not even begun or shredded."""
    return 1 + max((version for _, version in _versions(session, object_id)), default=0)


def holds_on(session: Session, versions: Iterable[Version]) -> list[HoldRow]:
    """The legal holds in force on these, or on anything that they were made from."""
    jobs = {made: job for job in session.scalars(select(JobRow)) if (made := _output(job)) is not None}
    seen: set[Version] = set()
    pending = list(versions)
    while pending:
        version = pending.pop()
        if version not in seen:
            seen.add(version)
            pending.extend(_inputs(jobs[version]) if version in jobs else ())
    ids = {object_id for object_id, _ in seen}
    held = select(HoldRow).where(HoldRow.released_at.is_(None)).order_by(HoldRow.placed_at)
    return [row for row in session.scalars(held) if row.object_id in ids]


def held(session: Session) -> set[str]:
    """Ids of all objects that a legal hold in force keeps: what is held, and everything derived from it."""
    ids = set(session.scalars(select(HoldRow.object_id).where(HoldRow.released_at.is_(None))))
    roots = [version for object_id in sorted(ids) for version in sorted(_versions(session, object_id))]
    return ids | {object_id for object_id, _ in lineage(session, roots).versions} if ids else ids


def holds_on_object(session: Session, object_id: str) -> list[HoldRow]:
    """The legal holds in force on any version of it, or on anything that one was made from."""
    return holds_on(session, _versions(session, object_id))


def _versions(session: Session, object_id: str) -> set[Version]:
    """All versions that there ever were, those that were only begun or are shredded too."""
    found: set[Version] = set()
    for column, whose in (
        (ObjectRow.version, ObjectRow.object_id),
        (TombstoneRow.version, TombstoneRow.object_id),
        (JobRow.output_version, JobRow.subject),
    ):
        found |= {
            (object_id, version) for version in session.scalars(select(column).where(whose == object_id))
        }
    return found


def _inputs(job: JobRow) -> set[Version]:
    return {(reference["object_id"], reference["version"]) for reference in job.inputs.values()}


def _output(job: JobRow) -> Version | None:
    return (job.subject, job.output_version) if job.subject else None
