"""Evaluations that are asked for after a run, and what they hold shown to a person.

Answers go from a sandbox to the caller's own descriptor, after the entry that says who asked; the authority names the
object, hands out its key and sees none of it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import ErrorsConfig, EvaluationRequest, JobState, JobTicket, ObjectKind
from cloister.appliance import records
from cloister.appliance.asking import Asking
from cloister.appliance.catalogue import find
from cloister.appliance.jobs import ERRORS, PENDING, announce
from cloister.appliance.peer import Peer
from cloister.appliance.runs import find_run, require_adapter
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.errors import Conflict, InvalidInput, NotFound


class Evaluations(Asking):
    """Queues both, each entered before."""

    async def start(self, peer: Peer, reference: str, request: EvaluationRequest) -> JobTicket:
        """Queue an evaluation of a run that has its adapter. It waits for the user's files where it names some.

        Errors: NotFound, Conflict, InvalidInput, Locked, LedgerUnavailable.
        """
        await self._refuse_start()
        config = request.config.model_dump() | {"costs": None}
        with self._state.read() as session:
            run = find_run(session, reference)
            inputs = _inputs(session, run)
            if request.larger is not None:
                inputs["larger"] = find(session, ObjectKind.BASE, request.larger)
                if inputs["larger"].object_id == inputs["base"].object_id:
                    raise InvalidInput("that is the base of the run itself", where=request.larger)
        wanted = request.config.table
        files = {
            "metric": wanted.metric_sha256 if wanted is not None else None,
            "glossary": wanted.glossary_sha256 if wanted is not None else None,
        }
        named = {role: digest for role, digest in files.items() if digest is not None}
        await self._recorder.record(
            peer,
            "evaluation.start",
            run.run_id,
            *(inputs[role].object_id for role in ("adapter", "larger") if role in inputs),
            digests={"config": self._seal.config_digest(config), **named},
            name=run.name,
        )
        with self._state.change() as change:
            run = find_run(change.session, run.run_id)
            _inputs(change.session, run)
            row = self._queue.add(
                change, peer.account, "evaluate", run.name, config, inputs, waits_for_source=bool(named)
            )
            row.asked_by = peer.uid
            run.evaluate_job = row.job_id
            change.event("run.updated", run.run_id, name=run.name)
            job = records.job(row)
        if not named:
            return JobTicket(job=job)
        return self._ticket(job, peer)

    async def show(self, peer: Peer, reference: str, request: ErrorsConfig) -> JobTicket:
        """Queue the writing of a run's worst answers, entered now; it waits for the descriptor.

        Errors: NotFound, Locked, LedgerUnavailable.
        """
        await self._refuse_start()
        with self._state.read() as session:
            run = find_run(session, reference)
            stored = _newest(session, run)
        index = await self._recorder.record(
            peer,
            "evaluation.reveal",
            run.run_id,
            stored.object_id,
            digests={"manifest": stored.manifest_sha256},
            name=run.name,
            rows=request.worst,
        )
        with self._state.change() as change:
            row = self._queue.add(
                change,
                peer.account,
                ERRORS,
                run.name,
                request.model_dump(),
                {"evaluation": stored},
                waits_for_source=True,
            )
            row.asked_by = peer.uid
            row.metrics = {"entry": float(index)}
            job = records.job(row)
        return self._ticket(job, peer)

    async def shown(self, job_id: str, values: dict[str, Any], ledger_index: int) -> None:
        """It was written: the job is done."""
        with self._state.change() as change:
            row = change.session.get_one(JobRow, job_id)
            row.state, row.ended_at, row.error, row.stopping = JobState.DONE, change.now, None, None
            row.result = {name: int(values.get(name, 0)) for name in ("rows", "bytes")}
            row.result |= {"entry": int(row.metrics.get("entry", 0))}
            announce(change, row)


def _inputs(session: Session, run: RunRow) -> dict[str, ObjectRow]:
    """What a run is measured on. Errors: Conflict where it has no adapter yet, or is being measured."""
    adapter = require_adapter(session, run)
    job = session.get(JobRow, run.evaluate_job) if run.evaluate_job else None
    if job is not None and job.state in PENDING:
        raise Conflict(
            "the run is being measured already", where=run.name, remedy=f"`cloister run watch {run.name}`."
        )
    inputs = {
        "dataset": find(session, ObjectKind.DATASET, run.dataset),
        "base": find(session, ObjectKind.BASE, run.base),
        "adapter": find(session, ObjectKind.ADAPTER, adapter),
    }
    if run.holdout is not None:
        inputs["holdout"] = find(session, ObjectKind.DATASET, run.holdout)
    return inputs


def _newest(session: Session, run: RunRow) -> ObjectRow:
    """The newest evaluation of a run's adapter. Errors: NotFound."""
    rows = session.scalars(
        select(ObjectRow)
        .where(ObjectRow.kind == ObjectKind.EVALUATION)
        .order_by(ObjectRow.created_at.desc(), ObjectRow.version.desc())
    )
    for row in rows:
        if run.adapter in row.inputs:
            return row
    raise NotFound(
        "the run was not measured yet", where=run.name, remedy=f"Measure it: `cloister evaluate {run.name}`."
    )
