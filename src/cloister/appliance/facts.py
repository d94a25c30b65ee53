"""What the state knows about a thing, as policies ask for it: classification, evaluation, who asked.

It reads, and decides nothing. What it does not find is left to count as the strictest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import Classification, ObjectKind
from cloister.appliance.peer import NOBODY, asker
from cloister.appliance.personal_data import personal_in
from cloister.appliance.runs import earlier_adapter, went_wrong
from cloister.appliance.state import (
    ApprovalRow,
    ClassificationRow,
    DeploymentRow,
    JobRow,
    ObjectRow,
    RunRow,
)
from cloister.appliance.store import utc_now
from cloister.policy.things import STRICTEST, Bounds, Facts, Scores, strictest

_STORED = {"Dataset": ObjectKind.DATASET, "Model": ObjectKind.MODEL}


def facts_of(session: Session, kind: str, reference: str) -> Facts:
    """Of the thing of that name or id; the strictest where there is none."""
    if kind in _STORED:
        row = session.scalars(
            select(ObjectRow)
            .where(ObjectRow.kind == _STORED[kind])
            .where((ObjectRow.object_id == reference) | (ObjectRow.name == reference))
            .order_by(
                (ObjectRow.object_id == reference).desc(),
                ObjectRow.created_at.desc(),
                ObjectRow.version.desc(),
            )
        ).first()
        if row is None:
            return STRICTEST
        return model_facts(session, row) if kind == "Model" else Facts(dataset_class(session, row.object_id))
    if kind == "Run":
        run = session.scalars(
            select(RunRow)
            .where((RunRow.run_id == reference) | (RunRow.name == reference))
            .order_by((RunRow.run_id == reference).desc())
        ).first()
        if run is None:
            return STRICTEST
        return Facts(run_class(session, run), personal=personal_in(session, run_data(session, run)))
    if kind == "Deployment":
        served = session.scalars(
            select(DeploymentRow)
            .where((DeploymentRow.deployment_id == reference) | (DeploymentRow.name == reference))
            .order_by((DeploymentRow.deployment_id == reference).desc(), DeploymentRow.created_at.desc())
        ).first()
        return STRICTEST if served is None else facts_of(session, "Model", served.model)
    if kind == "Job":
        job = session.get(JobRow, reference)
        return STRICTEST if job is None else replace(STRICTEST, requester=requester_of(job))
    if kind == "Approval":
        asked = session.get(ApprovalRow, reference)
        return STRICTEST if asked is None else approval_facts(session, asked)
    return STRICTEST


def dataset_class(session: Session, object_id: str) -> Classification:
    """A dataset's classification."""
    row = session.get(ClassificationRow, object_id)
    return STRICTEST.classification if row is None else cast(Classification, row.classification)


def data_class(session: Session, datasets: Iterable[str]) -> Classification:
    """That of what is made of these datasets."""
    return strictest({dataset_class(session, object_id) for object_id in datasets})


def requester_of(job: JobRow) -> int:
    """The uid of whoever asked for a job last; -1, which nobody has, where that is not known."""
    uid = asker(job.asked_by, job.requested_by).uid
    return -1 if uid == NOBODY and job.asked_by is None else uid


def run_facts(session: Session, run: RunRow) -> Facts:
    """Of a run, and of the model that is merged of it."""
    return replace(
        _measured(run.evaluation or {}),
        classification=run_class(session, run),
        evaluated=bool(run.evaluation),
        went_wrong=went_wrong(session, run) is not None,
    )


def _measured(report: Mapping[str, Any]) -> Facts:
    return Facts(
        tuned=Scores.of(report.get("tuned", {})),
        base=Scores.of(report.get("base", {})),
        evaluation=Bounds.of(report.get("full", {}).get("bounds", {})),
    )


def run_class(session: Session, run: RunRow) -> Classification:
    return data_class(session, run_data(session, run))


def run_data(session: Session, run: RunRow) -> list[str]:
    """The datasets that a run was trained and measured on, and those of the adapter that it went on from."""
    earlier = earlier_adapter(session, run)
    before = nearest_data(session, earlier) if earlier is not None else set()
    return sorted({run.dataset} | ({run.holdout} if run.holdout else set()) | before)


def object_data(session: Session, row: ObjectRow) -> set[str]:
    """The datasets that an object came of, itself if it is one."""
    found: set[str] = set()
    seen: set[str] = set()
    pending = [row.object_id]
    while pending:
        object_id = pending.pop()
        if object_id in seen:
            continue
        seen.add(object_id)
        versions = session.scalars(select(ObjectRow).where(ObjectRow.object_id == object_id)).all()
        if any(version.kind == ObjectKind.DATASET for version in versions):
            found.add(object_id)
        for version in versions:
            pending += version.inputs
    return found


def object_class(session: Session, row: ObjectRow) -> Classification | None:
    """That of what an object came of; None for a base model, which came of no data of this house."""
    return None if row.kind == ObjectKind.BASE else data_class(session, nearest_data(session, row))


def nearest_data(session: Session, row: ObjectRow) -> set[str]:
    """The datasets that an object came of, without those that they were derived from: a derived dataset has a
    classification of its own, at first that of its parents."""
    found: set[str] = set()
    pending, seen = [row.object_id], set[str]()
    while pending:
        object_id = pending.pop()
        if object_id in seen:
            continue
        seen.add(object_id)
        versions = session.scalars(select(ObjectRow).where(ObjectRow.object_id == object_id)).all()
        if any(version.kind == ObjectKind.DATASET for version in versions):
            found.add(object_id)
        else:
            pending += [parent for version in versions for parent in version.inputs]
    return found


def run_of_model(session: Session, model: ObjectRow) -> RunRow | None:
    """The run whose adapter a model was merged with."""
    return session.scalars(select(RunRow).where(RunRow.adapter.in_(model.inputs))).first()


def model_facts(session: Session, model: ObjectRow) -> Facts:
    run = run_of_model(session, model)
    measured = run.evaluation if run is not None else None
    return replace(
        _measured(measured or {}),
        classification=data_class(session, nearest_data(session, model)),
        evaluated=bool(measured),
        went_wrong=run is not None and went_wrong(session, run) is not None,
    )


def approval_facts(session: Session, row: ApprovalRow) -> Facts:
    """Of something that was asked for, with who approved, and who asked for, something else about the same data."""
    data = set(row.data)
    moment = row.decided_at or utc_now()
    elsewhere = select(ApprovalRow).where(
        ApprovalRow.approval_id != row.approval_id, ApprovalRow.action != row.action
    )
    others = [other for other in session.scalars(elsewhere) if data & set(other.data)]
    given = [other for other in others if other.stands_until is not None]  # once, whatever became of it
    asked = [
        other
        for other in others
        if other.requested_at <= moment and (other in given or other.open_at(moment))
    ]
    return Facts(
        classification=cast(Classification, row.classification),
        requester=row.requester,
        action=row.action,
        approved_before=frozenset(other.decider for other in given if other.decider is not None),
        asked_before=frozenset(other.requester for other in asked),
    )
