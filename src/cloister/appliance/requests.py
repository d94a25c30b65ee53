"""What clients ask to be made: objects, runs and merged models, each recorded and then queued.

It freezes what was asked for; how a job runs is the queue's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import select

from cloister.api import (
    BaseImport,
    DatasetImport,
    EvaluateConfig,
    Job,
    JobState,
    JobTicket,
    MergeRequest,
    ObjectKind,
    Run,
    RunRequest,
    TrainConfig,
)
from cloister.appliance import records
from cloister.appliance.approvals import Approvals, Pass
from cloister.appliance.asking import Asking
from cloister.appliance.catalogue import find, refuse_taken_name
from cloister.appliance.classifying import classify
from cloister.appliance.facts import dataset_class, run_facts
from cloister.appliance.guard import Guard
from cloister.appliance.ids import new_id
from cloister.appliance.jobs import DRY_RUN, announce
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer, asker
from cloister.appliance.queue import Queue
from cloister.appliance.runs import find_run, refuse_taken_run, require_adapter, run_inputs, went_on_from
from cloister.appliance.side import SideSocket
from cloister.appliance.state import JobRow, RunRow
from cloister.errors import Conflict
from cloister.policy.things import Facts

MOVED = "There is a newer version of what it was made of: start a new run."


_KINDS = {"base": ObjectKind.BASE, "adapter": ObjectKind.ADAPTER}


class Requests(Asking):
    """One call a request. Errors (all): Locked, LedgerUnavailable, SandboxUnavailable, Unavailable."""

    def __init__(
        self,
        parts: Parts,
        queue: Queue,
        side: SideSocket,
        approvals: Approvals,
        guard: Guard,
        *,
        refuse_start: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(parts, queue, side, refuse_start=refuse_start)
        self._approvals = approvals
        self._guard = guard
        self._default_class = parts.settings.data.classification
        self._personal = parts.settings.data.personal
        self._devices = parts.devices

    async def import_dataset(self, peer: Peer, request: DatasetImport) -> JobTicket:
        classification = request.classification or self._default_class
        await self._guard.require_of(
            peer, "dataset.import", "Dataset", request.name, Facts(classification=classification)
        )
        config = request.config.model_dump()
        unwritten: dict[str, Any] = {}
        if request.config.system_prompt is not None:  # content: the state holds a keyed digest of it
            unwritten["system_prompt"] = config["system_prompt"]
            config["system_prompt"] = self._seal.config_digest({"system_prompt": config["system_prompt"]})
        if request.dry_run:
            return await self._try_import(peer, request.name, config, unwritten)
        if classification in self._personal:
            config["personal"] = self._personal[classification]
        return await self._import(
            peer,
            "import",
            ObjectKind.DATASET,
            request.name,
            config,
            unwritten,
            classification=classification,
        )

    async def _try_import(
        self, peer: Peer, name: str, config: dict[str, Any], unwritten: dict[str, Any]
    ) -> JobTicket:
        """Queue a reading of the source that makes nothing. It is entered like an import: rows are read."""
        await self._refuse_start()
        digests = {"config": self._seal.config_digest(config)}
        await self._recorder.record(peer, "dataset.import", digests=digests, name=name, dry_run=True)
        with self._state.change() as change:
            row = self._queue.add(
                change, peer.account, DRY_RUN, name, config, {}, waits_for_source=True, unwritten=unwritten
            )
            job = records.job(row)
        return self._ticket(job, peer)

    async def complete_dry_run(self, job_id: str, values: dict[str, Any], ledger_index: int) -> None:
        """Keep what a dry run found: counts and problems, in the job alone."""
        with self._state.change() as change:
            job = change.session.get_one(JobRow, job_id)
            job.state, job.ended_at, job.result, job.error = JobState.DONE, change.now, values, None
            job.stopping = None
            announce(change, job)

    async def import_base(self, peer: Peer, request: BaseImport) -> JobTicket:
        return await self._import(
            peer, "base", ObjectKind.BASE, request.name, request.config.model_dump(mode="json")
        )

    async def _import(
        self,
        peer: Peer,
        verb: str,
        kind: ObjectKind,
        name: str,
        config: dict[str, Any],
        unwritten: dict[str, Any] | None = None,
        classification: str | None = None,
    ) -> JobTicket:
        await self._refuse_start()
        digests = {"config": self._seal.config_digest(config)}
        with self._state.read() as session:
            refuse_taken_name(session, kind, name)
        told = {} if classification is None else {"classification": classification}
        if "personal" in config:
            told["personal"] = config["personal"]
        await self._recorder.record(peer, f"{kind}.import", digests=digests, name=name, **told)
        with self._state.change() as change:
            refuse_taken_name(change.session, kind, name)
            row = self._queue.add(
                change, peer.account, verb, name, config, {}, waits_for_source=True, unwritten=unwritten
            )
            if classification is not None:
                classify(change, row.subject or "", classification, peer.account)
            job = records.job(row)
        return self._ticket(job, peer)

    async def source_goes(self, peer: Peer, reference: str, filesystem: str, *, overwritten: bool) -> None:
        """Enter that whoever imported a dataset removes the file that it came from; then they do, by their own rights.

        Errors: NotFound, Denied, Conflict, LedgerUnavailable.
        """
        with self._state.read() as session:
            row = find(session, ObjectKind.DATASET, reference)
            facts = Facts(classification=dataset_class(session, row.object_id))
            imported = select(JobRow.job_id).where(JobRow.subject == row.object_id, JobRow.verb == "import")
            job_id = session.scalars(imported).first()
        await self._guard.require_of(peer, "dataset.import", "Dataset", row.name, facts)
        if job_id is None or row.created_by != peer.account:
            raise Conflict("its source is whose who imported it", where=row.name)
        await self._recorder.record(
            peer,
            "dataset.remove-source",
            row.object_id,
            job_id,
            name=row.name,
            filesystem=filesystem,
            overwritten=overwritten,
        )

    async def start_run(self, peer: Peer, request: RunRequest) -> Run:
        """Queue a fine-tuning, frozen as asked for.

        Errors: NotFound, Conflict, Denied, ApprovalNeeded, Locked, LedgerUnavailable.
        """
        await self._refuse_start()
        self._devices.require(request.train.processes)
        with self._state.read() as session:
            refuse_taken_run(session, request.name)
        if request.priority:
            place = "job.raise" if request.priority > 0 else "job.lower"
            await self._guard.require_of(peer, place, "Job", request.name, Facts(requester=peer.uid))
        passed = await self._approvals.gate(peer, "run.start", request.model_dump(mode="json"))
        with self._state.read() as session:  # nothing came between: these are what the gate froze
            inputs = run_inputs(session, request)
        run_id = new_id("run")
        config = request.train.model_dump()
        evaluate = request.evaluate.model_dump() if request.evaluate else None
        digests = {"config": self._seal.config_digest(config)}
        if evaluate is not None:
            digests["evaluate"] = self._seal.config_digest(evaluate)
        await self._recorder.record(
            peer,
            "run.start",
            run_id,
            *(row.object_id for row in inputs.values()),
            digests=digests,
            name=request.name,
            priority=request.priority,
            **{
                name: reference
                for name, reference in (("from_run", request.from_run), ("rebase_of", request.rebase_of))
                if reference is not None
            },
            **passed.told,
        )
        with self._state.change() as change:
            passed.spend(change)
            refuse_taken_run(change.session, request.name)
            job = self._queue.add(
                change, peer.account, "train", request.name, config, inputs, priority=request.priority
            )
            job.asked_by = peer.uid
            change.session.add(
                RunRow(
                    run_id=run_id,
                    name=request.name,
                    dataset=inputs["dataset"].object_id,
                    base=inputs["base"].object_id,
                    holdout=inputs["holdout"].object_id if "holdout" in inputs else None,
                    train=config,
                    evaluate=evaluate,
                    created_at=change.now,
                    created_by=peer.account,
                    train_job=job.job_id,
                )
            )
            change.event("run.started", run_id, name=request.name)
        return self._shown(run_id)

    async def gate_resume(self, peer: Peer, job: JobRow) -> None:
        """A training goes on only under the approval that its start would take now.

        Errors: Denied, ApprovalNeeded, Conflict.
        """
        asked = self._asked(job)
        if asked is None:
            return
        request, moved = asked
        if moved:
            await self._approvals.refuse_gated(peer, "run.start", request, MOVED)
            return
        passed = await self._approvals.gate(peer, "run.start", request, again=True)
        with self._state.change() as change:
            passed.spend(change)

    async def gate_start(self, job: JobRow) -> Pass:
        """A training that has waited starts only where the policies would let whoever asked for it start it now.

        Errors: Denied, ApprovalNeeded, NotFound; Unavailable where that cannot be found out now.
        """
        asked = self._asked(job)
        if asked is None:
            return Pass()
        request, moved = asked
        remedy = (
            MOVED if moved else f"`cloister run resume {job.name}`, by whoever may, asks for what it takes."
        )
        who = asker(job.asked_by, job.requested_by)
        return await self._approvals.still(who, "run.start", request, remedy=remedy, moved=moved)

    def _asked(self, job: JobRow) -> tuple[dict[str, Any], bool] | None:
        """The run that a training is of, as it would be asked for; whether there are newer versions of its inputs."""
        if job.verb != "train":
            return None
        with self._state.read() as session:
            run = session.scalars(select(RunRow).where(RunRow.train_job == job.job_id)).one()
            newest = {
                role: find(session, _KINDS.get(role, ObjectKind.DATASET), ref["object_id"])
                for role, ref in job.inputs.items()
            }
            from_run = went_on_from(session, run)
        request = RunRequest(
            name=run.name,
            dataset=run.dataset,
            base=run.base,
            holdout=run.holdout,
            from_run=from_run,
            train=TrainConfig.frozen(run.train),
            evaluate=EvaluateConfig.model_validate(run.evaluate) if run.evaluate else None,
        ).model_dump(mode="json")
        return request, any(newest[role].version != ref["version"] for role, ref in job.inputs.items())

    async def resume_run(self, peer: Peer, reference: str) -> Run:
        """Resume whichever job of the run was cut off. Errors: NotFound, Conflict."""
        run = self._shown(reference)
        cut = run.evaluate_job or run.train_job
        await self._queue.resume(peer, cut.job_id)
        return self._shown(run.run_id)

    async def retry_run(self, peer: Peer, reference: str) -> Run:
        """Begin whichever job of the run ended without its result anew. Errors: NotFound, Conflict."""
        run = self._shown(reference)
        await self._queue.retry(peer, (run.evaluate_job or run.train_job).job_id)
        return self._shown(run.run_id)

    async def pause_run(self, peer: Peer, reference: str) -> Run:
        """Stop it at a checkpoint and let go of its device. Errors: NotFound, Conflict."""
        run = self._shown(reference)
        await self._queue.pause(peer, (run.evaluate_job or run.train_job).job_id)
        return self._shown(run.run_id)

    async def cancel_run(self, peer: Peer, reference: str) -> Run:
        run = self._shown(reference)
        await self._queue.cancel(peer, (run.evaluate_job or run.train_job).job_id)
        return self._shown(run.run_id)

    async def merge(self, peer: Peer, request: MergeRequest) -> Job:
        """Queue the merge of a run's adapter. Errors: NotFound, Conflict, Denied, Locked, LedgerUnavailable."""
        with self._state.read() as session:
            facts = run_facts(session, find_run(session, request.run))
        await self._guard.require_of(peer, "model.merge", "Model", request.name, facts)
        await self._refuse_start()
        config = request.config.model_dump()
        digests = {"config": self._seal.config_digest(config)}
        with self._state.read() as session:
            refuse_taken_name(session, ObjectKind.MODEL, request.name)
            run = find_run(session, request.run)
            adapter = require_adapter(session, run)
            inputs = {
                "dataset": find(session, ObjectKind.DATASET, run.dataset),
                "base": find(session, ObjectKind.BASE, run.base),
                "adapter": find(session, ObjectKind.ADAPTER, adapter),
            }
            if run.holdout is not None:
                inputs["holdout"] = find(session, ObjectKind.DATASET, run.holdout)
        await self._recorder.record(
            peer,
            "model.merge",
            run.run_id,
            inputs["adapter"].object_id,
            digests=digests,
            name=request.name,
        )
        with self._state.change() as change:
            refuse_taken_name(change.session, ObjectKind.MODEL, request.name)
            row = self._queue.add(change, peer.account, "merge", request.name, config, inputs)
            return records.job(row)

    def _shown(self, reference: str) -> Run:
        with self._state.read() as session:
            return records.run(session, find_run(session, reference))
