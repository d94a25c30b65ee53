"""What a shred takes with it and what stands in its way, read off the state. It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import ObjectKind, ShredItem, ShredPlan, ShredUse
from cloister.appliance import records
from cloister.appliance.catalogue import find
from cloister.appliance.holds import hold_document, words_of
from cloister.appliance.jobs import made_by
from cloister.appliance.lineage import Lineage, Version, holds_on, lineage
from cloister.appliance.state import BackupRow, JobRow, ObjectRow, RunRow, TombstoneRow
from cloister.appliance.tombstones import refuse_shredded
from cloister.errors import Conflict, InvalidInput, NotFound

RUN = "run"


def roots_of(
    session: Session, kind: str, reference: str, version: int | None
) -> tuple[str, str, list[Version]]:
    """Id, name and object versions of what a reference names."""
    if kind == RUN:
        if version is not None:
            raise InvalidInput("a run has no versions", where=reference[:64])
        run = session.scalars(
            select(RunRow)
            .where((RunRow.run_id == reference) | (RunRow.name == reference))
            .order_by((RunRow.run_id == reference).desc())
        ).first()
        if run is None:
            refuse_shredded(session, RUN, reference)
            raise NotFound(
                "there is no run of that name or id",
                where=reference[:64],
                remedy="See `cloister run list`.",
            )
        job = session.get_one(JobRow, run.train_job)
        return run.run_id, run.name, [(job.subject or "", job.output_version)]
    row = find(session, ObjectKind(kind), reference)
    rows = session.scalars(select(ObjectRow).where(ObjectRow.object_id == row.object_id)).all()
    chosen = {(r.object_id, r.version) for r in rows if version in (None, r.version)}
    if version is None:  # what a job that was cut off began has a key too
        made = session.scalars(select(JobRow).where(JobRow.subject == row.object_id))
        chosen |= {(row.object_id, job.output_version) for job in made}
    if not chosen:
        tomb = session.get(TombstoneRow, (row.object_id, version))
        if tomb is not None:
            refuse_shredded(session, kind, tomb.object_id)
        raise NotFound(f"this {kind} has no version {version}", where=row.name)
    return row.object_id, row.name, sorted(chosen)


def plan_of(
    session: Session, kind: str, object_id: str, name: str, roots: Sequence[Version], now: datetime
) -> ShredPlan:
    found = lineage(session, roots)
    uses = [ShredUse(id=d.deployment_id, name=d.name, state=d.state) for d in found.served]
    uses += [ShredUse(id=j.job_id, name=j.name, state=f"{j.verb} {j.state}") for j in found.using]
    backups = _backups(session, found, now)
    return ShredPlan(
        kind=kind,
        object_id=object_id,
        name=name,
        versions=[version for _, version in roots],
        items=_items(session, found),
        runs={run.run_id: run.name for run in found.runs},
        jobs=[job.job_id for job in found.makers],
        in_use=uses,
        holds=[hold_document(row) for row in holds_on(session, found.versions)],
        backups=[records.backup(row) for row in backups],
        final_after=max((row.keys_until for row in backups), default=None),
    )


def _backups(session: Session, found: Lineage, now: datetime) -> list[BackupRow]:
    """The backups of the key store that were made when one of these had a key, and are still kept."""
    began = [job.started_at or job.created_at for job in found.makers]
    began += [row.created_at for row in found.stored]
    if not began:
        return []
    kept = select(BackupRow).where(
        BackupRow.made_at >= min(began),
        BackupRow.keys_until > now,
        BackupRow.discarded_at.is_(None),
    )
    return list(session.scalars(kept.order_by(BackupRow.made_at)))


def refuse_blocked(plan: ShredPlan, take_down: bool) -> None:
    """Errors: Conflict where a hold or a use stands in the way."""
    if plan.holds:
        hold = plan.holds[0]
        raise Conflict(
            words_of(hold),
            where=plan.name,
            remedy=f"Whoever placed it may `cloister dataset release {hold.name}`.",
        )
    if plan.in_use and not take_down:
        uses = ", ".join(f"{use.name} ({use.state})" for use in plan.in_use[:8])
        raise Conflict(
            f"something derived from it is in use: {uses}",
            where=plan.name,
            remedy="Stop it first, or shred with --take-down.",
        )


def refuse_other_name(name: str, confirm: str | None) -> None:
    """Errors: InvalidInput unless the thing's own name was repeated."""
    if confirm != name:
        raise InvalidInput(
            "the name that was repeated is not the name of what would be shredded; nothing was done",
            where=name,
            remedy=f"Repeat {name}.",
        )


def _items(session: Session, found: Lineage) -> list[ShredItem]:
    stored = {(row.object_id, row.version): row for row in found.stored}
    makers: dict[Version, JobRow] = {(j.subject or "", j.output_version): j for j in found.makers}
    items = []
    for object_id, version in found.versions:
        row, job = stored.get((object_id, version)), makers.get((object_id, version))
        if row is None and job is None:
            continue
        items.append(
            ShredItem(
                object_id=object_id,
                version=version,
                kind=ObjectKind(row.kind) if row else made_by(job)[0],  # type: ignore[arg-type]
                name=row.name if row else job.name,  # type: ignore[union-attr]
                stored=row is not None,
                sealed_bytes=row.sealed_bytes if row else 0,
            )
        )
    return items
