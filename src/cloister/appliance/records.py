"""From rows of the state database to the documents that clients read. Nothing is decided here."""

from __future__ import annotations

from sqlalchemy.orm import Session

from cloister.api import (
    ApiClient,
    Approval,
    Backup,
    Deployment,
    DeploymentState,
    EvaluateConfig,
    Job,
    JobState,
    ObjectKind,
    Problem,
    Progress,
    Run,
    ServeConfig,
    Shred,
    StoredObject,
    TrainConfig,
)
from cloister.appliance.runs import went_on_from
from cloister.appliance.state import (
    ApprovalRow,
    BackupRow,
    ClientRow,
    DeploymentRow,
    JobRow,
    ObjectRow,
    RunRow,
    ShredRow,
)
from cloister.errors import CloisterError


def problem(error: CloisterError) -> Problem:
    """RFC 9457 form of an error. Extra values of the error ride along where it has some."""
    return Problem(
        title=error.code.replace("-", " ").capitalize(),
        status=error.status,
        code=error.code,
        detail=error.message,
        where=error.where,
        remedy=error.remedy,
        values=error.values,
    )


def job(row: JobRow) -> Job:
    return Job(
        job_id=row.job_id,
        verb=row.verb,
        state=JobState(row.state),
        subject=row.subject,
        requested_by=row.requested_by,
        priority=row.priority,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        attempts=row.attempts,
        progress=Progress.model_validate(row.progress) if row.progress else None,
        metrics=row.metrics,
        result=row.result,
        error=Problem.model_validate(row.error) if row.error else None,
        device=row.device,
    )


def stored_object(row: ObjectRow, classification: str | None = None) -> StoredObject:
    return StoredObject(
        object_id=row.object_id,
        kind=ObjectKind(row.kind),
        version=row.version,
        name=row.name,
        created_at=row.created_at,
        created_by=row.created_by,
        sealed_bytes=row.sealed_bytes,
        manifest_sha256=row.manifest_sha256,
        inputs=row.inputs,
        counts=row.counts,
        details=row.details,
        classification=classification,
    )


def approval(row: ApprovalRow, state: str) -> Approval:
    """`state` is as it counts now: what is pending in the database may have expired."""
    return Approval(
        approval_id=row.approval_id,
        state=state,
        action=row.action,
        kind=row.kind,
        thing=row.thing,
        name=row.name,
        classification=row.classification,
        digest=row.digest,
        summary=row.summary,
        signature_needed=row.signature_needed,
        requested_by=row.requested_by,
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        document=row.document,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        stands_until=row.stands_until,
        reason=row.reason,
        signature=row.signature,
        signer=row.signer,
        used_at=row.used_at,
    )


def run(session: Session, row: RunRow) -> Run:
    train_job = session.get_one(JobRow, row.train_job)
    evaluate_job = session.get_one(JobRow, row.evaluate_job) if row.evaluate_job else None
    return Run(
        run_id=row.run_id,
        name=row.name,
        dataset=row.dataset,
        base=row.base,
        holdout=row.holdout,
        train=TrainConfig.frozen(row.train),
        evaluate=EvaluateConfig.model_validate(row.evaluate) if row.evaluate else None,
        created_at=row.created_at,
        created_by=row.created_by,
        train_job=job(train_job),
        evaluate_job=job(evaluate_job) if evaluate_job else None,
        adapter=row.adapter,
        evaluation=row.evaluation,
        from_run=went_on_from(session, row),
    )


def deployment(row: DeploymentRow, socket: str | None) -> Deployment:
    return Deployment(
        deployment_id=row.deployment_id,
        name=row.name,
        model=row.model,
        state=DeploymentState(row.state),
        config=ServeConfig.model_validate(row.config),
        socket=socket,
        created_at=row.created_at,
        created_by=row.created_by,
        restarts=row.restarts,
        error=Problem.model_validate(row.error) if row.error else None,
        device=row.device,
    )


def api_client(row: ClientRow, *, with_hash: bool = False) -> ApiClient:
    return ApiClient(
        client_id=row.client_id,
        name=row.name,
        deployments=row.deployments,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        key_hash=row.key_hash if with_hash else None,
    )


def backup(row: BackupRow) -> Backup:
    return Backup(
        backup_id=row.backup_id,
        made_at=row.made_at,
        made_by=row.made_by,
        where=row.where,
        keys_until=row.keys_until,
        discarded_at=row.discarded_at,
        packs=row.packs,
        copied=row.copied,
        copied_bytes=row.copied_bytes,
        objects_sha256=row.objects_sha256,
        keys_sha256=row.keys_sha256,
        ledger_entries=row.ledger_entries,
    )


def shred(row: ShredRow) -> Shred:
    return Shred(
        shred_id=row.shred_id,
        state=row.state,
        kind=row.kind,
        object_id=row.object_id,
        name=row.name,
        asked_at=row.asked_at,
        asked_by=row.asked_by,
        done_at=row.done_at,
        objects=len(row.items),
        keys=row.keys,
        sealed_bytes=row.sealed_bytes,
        final_after=row.final_after,
        problem=row.problem,
    )
