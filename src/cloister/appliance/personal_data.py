"""What is known of personal data in a dataset: read off the jobs that made it and that looked at it.

It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import JobState, ObjectKind
from cloister.appliance.lineage import Version
from cloister.appliance.state import JobRow, ObjectRow
from cloister.policy.things import PERSONAL, PersonalData

REPORT = "report"
"""The verb that looks at a dataset."""


def personal_in(session: Session, datasets: Iterable[str]) -> PersonalData:
    """The worst of the newest versions of some datasets."""
    found: set[PersonalData] = set()
    for object_id in datasets:
        version = session.scalars(
            select(ObjectRow.version)
            .where(ObjectRow.object_id == object_id, ObjectRow.kind == ObjectKind.DATASET)
            .order_by(ObjectRow.version.desc())
        ).first()
        if version is not None:
            found.add(_of_version(session, (object_id, version), {}))
    return _worst(found)


def _of_version(session: Session, version: Version, known: dict[Version, PersonalData]) -> PersonalData:
    """What a look at it said; else what was done when it was made; else the worst of what it was made from."""
    if version in known:
        return known[version]
    known[version] = "unknown"  # nothing is made of itself
    looks = session.scalars(
        select(JobRow)
        .where(JobRow.verb == REPORT, JobRow.state == JobState.DONE)
        .order_by(JobRow.ended_at.desc())
    )
    seen = next((job.result for job in looks if _whole_look(job, version)), None)
    maker = session.scalars(
        select(JobRow).where(
            JobRow.subject == version[0], JobRow.output_version == version[1], JobRow.state == JobState.DONE
        )
    ).first()
    made: PersonalData = "unknown"
    if maker is not None:
        made = _made(session, maker, known)
    found: PersonalData = made
    if seen is not None and made != "replaced":  # there a look finds what was made up
        found = "found" if seen["personal"]["rows"] else "redacted" if made == "redacted" else "none"
    known[version] = found
    return found


def _made(session: Session, maker: JobRow, known: dict[Version, PersonalData]) -> PersonalData:
    how = maker.config.get("personal")
    if how in ("redact", "replace") and not maker.config.get("types"):
        return "redacted" if how == "redact" else "replaced"
    if maker.verb == "import":
        counted = maker.result.get("personal")
        return "unknown" if counted is None else "found" if counted["rows"] else "none"
    before = {
        _of_version(session, (reference["object_id"], reference["version"]), known)
        for reference in maker.inputs.values()
    }
    return _worst(before)


def _whole_look(job: JobRow, version: Version) -> bool:
    """Whether a job looked for personal data in every row of that version."""
    of = job.inputs["dataset"]
    config: Mapping[str, Any] = job.config
    return (
        (of["object_id"], of["version"]) == version
        and bool(config.get("personal"))
        and config.get("personal_every", 1) == 1
        and job.result.get("personal") is not None
    )


def _worst(found: set[PersonalData]) -> PersonalData:
    return max(found, key=PERSONAL.index, default="unknown")
