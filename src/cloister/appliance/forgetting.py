"""One person's request to be forgotten: a dataset's next version without the rows that mention them.

Queues the worker's job and says what follows from its end. The identifiers pass through in memory, on
their way to the worker; state and ledger get numbers only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import ForgetRequest, Job, JobState, ObjectKind, ShredRequest
from cloister.appliance import records
from cloister.appliance.approvals import Approvals
from cloister.appliance.catalogue import find
from cloister.appliance.jobs import PENDING
from cloister.appliance.lineage import SUCCESSOR, Version, next_version
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.queue import Queue
from cloister.appliance.shred_plan import refuse_blocked, refuse_other_name
from cloister.appliance.shredding import Shredding
from cloister.appliance.state import JobRow, ObjectRow, ShredRow
from cloister.appliance.store import Change
from cloister.errors import Conflict


class Forgetting:
    """Asks workers for the next version of a dataset, and has the one before it shredded."""

    def __init__(
        self,
        parts: Parts,
        queue: Queue,
        shredding: Shredding,
        approvals: Approvals,
        *,
        refuse_start: Callable[[], Awaitable[None]],
    ) -> None:
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._refuse_start = refuse_start
        self._queue = queue
        self._shredding = shredding
        self._approvals = approvals

    async def forget(self, peer: Peer, reference: str, request: ForgetRequest) -> Job:
        """Queue the next version of a dataset. With `shred: now` what stands in the way is told at once.

        Errors: NotFound, Conflict, InvalidInput, Locked, LedgerUnavailable.
        """
        await self._refuse_start()
        with self._state.read() as session:
            dataset = find(session, ObjectKind.DATASET, reference)
            self._refuse_second(session, dataset)
        if request.shred == "now":
            refuse_other_name(dataset.name, request.confirm)
            plan = await self._shredding.plan(ObjectKind.DATASET, dataset.object_id, dataset.version)
            refuse_blocked(plan, request.take_down)
            shred = ShredRequest(confirm=dataset.name, version=dataset.version, take_down=request.take_down)
            await self._approvals.refuse_gated(
                peer,
                "shred.start",
                {
                    "kind": str(ObjectKind.DATASET),
                    "reference": dataset.object_id,
                    "request": shred.model_dump(mode="json"),
                },
                remedy=f"Forget with `--shred later`, then ask: `cloister dataset shred {dataset.name} --version "
                f"{dataset.version}`.",
            )
        config = {
            "count": len(request.config.identifiers),
            "whole_words": request.config.whole_words,
            "shred": request.shred,
            "take_down": request.take_down,
        }
        await self._recorder.record(
            peer,
            "dataset.forget",
            dataset.object_id,
            digests={"config": self._seal.config_digest(config)},
            name=dataset.name,
            version=dataset.version,
            identifiers=len(request.config.identifiers),
            shred=request.shred,
        )
        with self._state.change() as change:
            dataset = find(change.session, ObjectKind.DATASET, dataset.object_id)
            self._refuse_second(change.session, dataset)
            row = self._queue.add(
                change,
                peer.account,
                SUCCESSOR,
                dataset.name,
                config,
                {"dataset": dataset},
                unwritten={"identifiers": request.config.identifiers},
                output=(dataset.object_id, next_version(change.session, dataset.object_id)),
            )
            return records.job(row)

    def done(self, change: Change, job: JobRow, stored: ObjectRow) -> None:
        """The next version is there: the one before it goes now, where that was asked for."""
        before = job.inputs["dataset"]["version"]
        result = {**job.result, "version": stored.version, "before": before}
        if job.config["shred"] == "now":
            request = ShredRequest(confirm=stored.name, version=before, take_down=job.config["take_down"])
            row = self._shredding.ask(
                change, job.requested_by, ObjectKind.DATASET, stored.object_id, stored.name, request
            )
            result["shred_id"] = row.shred_id
            self._shredding.kick()
        job.result = result

    def waiting(self) -> list[tuple[str, int]]:
        """Name and number of each dataset version that a later one has replaced, and that is there still."""
        with self._state.read() as session:
            made = session.scalars(
                select(JobRow).where(JobRow.verb == SUCCESSOR, JobRow.state == JobState.DONE)
            ).all()
            replaced: set[Version] = {
                (job.inputs["dataset"]["object_id"], job.inputs["dataset"]["version"]) for job in made
            }
            rows = [session.get(ObjectRow, version) for version in sorted(replaced)]
            return [(row.name, row.version) for row in rows if row is not None]

    def warnings(self) -> list[str]:
        """A sentence for the status where versions wait for their end."""
        waiting = [f"{name} --version {version}" for name, version in self.waiting()]
        if not waiting:
            return []
        return [
            f"{len(waiting)} dataset versions hold rows that were to be forgotten, until they are shredded: "
            + ", ".join(f"`cloister dataset shred {which}`" for which in waiting[:5])
        ]

    @staticmethod
    def _refuse_second(session: Session, dataset: ObjectRow) -> None:
        """Errors: Conflict where the next version is being made, or this one about to go."""
        making = select(JobRow).where(
            JobRow.verb == SUCCESSOR, JobRow.subject == dataset.object_id, JobRow.state.in_(PENDING)
        )
        going = select(ShredRow).where(ShredRow.object_id == dataset.object_id, ShredRow.state == "asked")
        if session.scalars(making).first() or session.scalars(going).first():
            raise Conflict(
                "the next version of this dataset is being made, or one of its versions shredded",
                where=dataset.name,
                remedy="Wait for its end: see `cloister status`.",
            )
