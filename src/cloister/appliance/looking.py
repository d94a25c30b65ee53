"""Looking into datasets: reports of numbers, which anybody may see, and rows, which few may.

Rows go from a sandbox to the caller's own descriptor; the authority names them in an entry first, hands out the
dataset's key, and sees no byte of them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cloister.api import (
    DatasetReport,
    Job,
    JobState,
    JobTicket,
    ObjectKind,
    RenderRequest,
    ReportRequest,
    RowsConfig,
)
from cloister.appliance import records
from cloister.appliance.asking import Asking
from cloister.appliance.catalogue import find
from cloister.appliance.jobs import announce
from cloister.appliance.peer import Peer
from cloister.appliance.personal_data import REPORT
from cloister.appliance.state import JobRow, ObjectRow
from cloister.errors import NotFound

ROWS = "rows"
"""The verb that writes rows out."""
RENDER = "render"
"""The verb that writes a row out as a run would learn it."""


class Looking(Asking):
    """One home's. Errors (of requests): NotFound, Locked, LedgerUnavailable, SandboxUnavailable."""

    async def report(self, peer: Peer, reference: str, request: ReportRequest) -> Job:
        """Queue a look at the whole dataset; its numbers are the job's result."""
        await self._refuse_start()
        with self._state.read() as session:
            inputs = {"dataset": find(session, ObjectKind.DATASET, reference)}
            if request.base is not None:
                inputs["base"] = find(session, ObjectKind.BASE, request.base)
        config = request.config.model_dump()
        await self._recorder.record(
            peer,
            "dataset.report",
            *(row.object_id for row in inputs.values()),
            digests={"config": self._seal.config_digest(config)},
            name=inputs["dataset"].name,
            version=inputs["dataset"].version,
            personal=request.config.personal,
        )
        with self._state.change() as change:
            row = self._queue.add(change, peer.account, REPORT, inputs["dataset"].name, config, inputs)
            return records.job(row)

    def last_report(self, reference: str) -> DatasetReport:
        """The newest numbers about the newest version. What one look left out an earlier one may give."""
        with self._state.read() as session:
            dataset = find(session, ObjectKind.DATASET, reference)
            looks = session.scalars(
                select(JobRow)
                .where(JobRow.verb == REPORT, JobRow.state == JobState.DONE)
                .order_by(JobRow.ended_at.desc())
            ).all()
        version = (dataset.object_id, dataset.version)
        found = [
            DatasetReport.model_validate(job.result)
            for job in looks
            if (job.inputs["dataset"]["object_id"], job.inputs["dataset"]["version"]) == version
        ]
        if not found:
            raise NotFound(
                "nobody has looked at this version yet",
                where=dataset.name,
                remedy=f"`cloister dataset report {dataset.name}` does.",
            )
        newest = found[0]
        earlier = {
            field: value
            for field in ("repeats", "near", "characters", "tokens", "personal")
            if getattr(newest, field) is None
            and (value := next((v for r in found if (v := getattr(r, field)) is not None), None)) is not None
        }
        return newest.model_copy(update=earlier)

    async def show(self, peer: Peer, reference: str, request: RowsConfig) -> JobTicket:
        """Enter who sees which rows, then queue what writes them to the descriptor that is handed over."""
        await self._refuse_start()
        with self._state.read() as session:
            dataset = find(session, ObjectKind.DATASET, reference)
        await self._recorder.record(
            peer,
            "dataset.reveal",
            dataset.object_id,
            name=dataset.name,
            version=dataset.version,
            rows=list(request.rows),
            labels=request.labels,
        )
        return self._shown(peer, ROWS, request.model_dump(mode="json"), {"dataset": dataset})

    async def render(self, peer: Peer, reference: str, request: RenderRequest) -> JobTicket:
        """`show` of one row, as token ids of a base model's tokenizer would stand for it, and what is learnt of it."""
        await self._refuse_start()
        with self._state.read() as session:
            inputs = {
                "dataset": find(session, ObjectKind.DATASET, reference),
                "base": find(session, ObjectKind.BASE, request.base),
            }
        config = request.config.model_dump(mode="json")
        await self._recorder.record(
            peer,
            "dataset.reveal",
            *(row.object_id for row in inputs.values()),
            digests={"config": self._seal.config_digest(config)},
            name=inputs["dataset"].name,
            version=inputs["dataset"].version,
            rows=[request.config.row],
            labels=False,
            rendered=True,
        )
        return self._shown(peer, RENDER, config, inputs)

    def _shown(
        self, peer: Peer, verb: str, config: dict[str, Any], inputs: dict[str, ObjectRow]
    ) -> JobTicket:
        with self._state.change() as change:
            name = inputs["dataset"].name
            row = self._queue.add(change, peer.account, verb, name, config, inputs, waits_for_source=True)
            job = records.job(row)
        return self._ticket(job, peer)

    async def complete(self, job_id: str, values: dict[str, Any], ledger_index: int) -> None:
        """Keep the numbers of a look, or that rows were written. Errors: OutOfSpace."""
        with self._state.change() as change:
            job = change.session.get_one(JobRow, job_id)
            job.state, job.ended_at, job.error, job.stopping = JobState.DONE, change.now, None, None
            job.result = values
            if job.verb == REPORT:
                job.result = DatasetReport.model_validate(values).model_dump(mode="json")
            announce(change, job)
