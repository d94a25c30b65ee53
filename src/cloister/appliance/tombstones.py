"""What is said of a thing that was shredded: when, by whom, and where the ledger tells of it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.appliance.state import JobRow, TombstoneRow
from cloister.errors import Shredded


def ending(row: TombstoneRow) -> str:
    """`shredded on … by … (ledger entry …)`, which is also kept in the place of a key."""
    moment = row.shredded_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"shredded on {moment} by {row.shredded_by} (ledger entry {row.ledger_index})"


def sentence(row: TombstoneRow) -> str:
    """`dataset claims was shredded on … by …`."""
    version = f" version {row.version}" if row.version > 1 else ""
    return f"{row.kind} {row.name}{version} was {ending(row)}"


def refuse_shredded(session: Session, kind: str, reference: str) -> None:
    """Errors: Shredded where a thing of that name or id existed, and exists no more."""
    row = session.scalars(
        select(TombstoneRow)
        .where(TombstoneRow.kind == kind)
        .where((TombstoneRow.object_id == reference) | (TombstoneRow.name == reference))
        .order_by(TombstoneRow.shredded_at.desc(), TombstoneRow.version.desc())
    ).first()
    if row is not None:
        raise Shredded(sentence(row), where=row.object_id)


def refuse_shredded_job(session: Session, job: JobRow) -> None:
    """Errors: Shredded where what a job reads or makes was shredded."""
    versions = [(reference["object_id"], reference["version"]) for reference in job.inputs.values()]
    for version in (*versions, (job.subject or "", job.output_version)):
        row = session.get(TombstoneRow, version)
        if row is not None:
            raise Shredded(sentence(row), where=row.object_id)
