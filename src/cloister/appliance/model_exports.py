"""Models that leave the house: asked for, approved, entered before and after, written by a worker.

The content goes from a sandbox through a pipe into the client's hands; the authority names the model, hands out
its key and sees no weight. (Where the ledger is exported to is `exporting`'s.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cloister.api import ExportRequest, JobState, JobTicket, ModelSigningKey, ObjectKind
from cloister.appliance import records
from cloister.appliance.approvals import Approvals
from cloister.appliance.asking import Asking
from cloister.appliance.catalogue import find
from cloister.appliance.facts import object_class, object_data, run_of_model
from cloister.appliance.ids import new_id
from cloister.appliance.jobs import EXPORT, announce
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.queue import Queue
from cloister.appliance.seal import MODEL_SIGNING
from cloister.appliance.side import SideSocket
from cloister.appliance.state import JobRow, ObjectRow
from cloister.models import openssf
from cloister.vault import age

ROLE = "model"


class ModelExports(Asking):
    """Queues exports and enters their ends."""

    def __init__(
        self,
        parts: Parts,
        queue: Queue,
        side: SideSocket,
        approvals: Approvals,
        *,
        refuse_start: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(parts, queue, side, refuse_start=refuse_start)
        self._approvals = approvals

    def key(self) -> ModelSigningKey:
        """What exports are checked against. Errors: Locked."""
        public = openssf.public_pem(openssf.signing_key(self._seal.vault.secret(MODEL_SIGNING)))
        return ModelSigningKey(public_key=public.decode(), sha256=openssf.hint_of(public))

    async def ask(self, peer: Peer, reference: str, request: ExportRequest) -> JobTicket:
        """An export that waits for the pipe it is to be written to. Its approval is used up, whatever comes of it.

        Errors: NotFound, InvalidInput (a recipient), Denied, ApprovalNeeded, Conflict, Locked, LedgerUnavailable.
        """
        key = self.key()
        await self._refuse_start()
        recipients = tuple(sorted({text.strip() for text in request.recipients}))
        age.parse_recipients(recipients)
        request = request.model_copy(update={"recipients": recipients})
        with self._state.read() as session:
            object_id = find(session, ObjectKind.MODEL, reference).object_id
        passed = await self._approvals.gate(
            peer, "model.export", {"reference": object_id, "request": request.model_dump(mode="json")}
        )
        with self._state.read() as session:  # nothing came between: this is what the gate froze
            model = find(session, ObjectKind.MODEL, object_id)
            classification = object_class(session, model)
            run = run_of_model(session, model)
            data = sorted(object_data(session, model))
        job_id = new_id("job")
        digests = _digests(model.manifest_sha256, recipients)
        index = await self._recorder.record(
            peer,
            "model.export",
            model.object_id,
            job_id,
            digests={**digests, "signing_key": key.sha256},
            decision="intended",
            name=model.name,
            version=model.version,
            form=request.form,
            classification=classification,
            **passed.told,
        )
        record = {
            "format": "cloister export, version 1",
            "model": _reference(model),
            "run": run.run_id if run is not None else None,
            "base": run.base if run is not None else None,
            "datasets": data,
            "classification": classification,
            "form": request.form,
            "exported_by": peer.account,
            "exported_at": self._state.now().isoformat(timespec="seconds"),
            "approval": passed.approval_id,
            "job": job_id,
            "ledger": {"origin": self._recorder.ledger.origin, "index": index},
            "policies": self._recorder.policy,
            "signing_key": key.sha256,
        }
        with self._state.change() as change:
            passed.spend(change)
            row = self._queue.add(
                change,
                peer.account,
                EXPORT,
                model.name,
                {"name": model.name, "form": request.form, "recipients": list(recipients), "record": record},
                {ROLE: model},
                waits_for_source=True,
                job_id=job_id,
            )
            job = records.job(row)
        return self._ticket(job, peer)

    async def complete(self, job_id: str, values: dict[str, Any], ledger_index: int) -> None:
        """Enter that everything went out. Errors: LedgerUnavailable, OutOfSpace."""
        with self._state.read() as session:
            job = session.get_one(JobRow, job_id)
        model, config = job.inputs[ROLE], job.config
        await self._recorder.record(
            None,
            "model.exported",
            model["object_id"],
            job_id,
            digests=_digests(model["manifest_sha256"], config["recipients"]),
            decision="done",
            form=config["form"],
            files=int(values.get("files", 0)),
            bytes=int(values.get("bytes", 0)),
            asked_by=job.requested_by,
            intent=config["record"]["ledger"]["index"],
        )
        with self._state.change() as change:
            job = change.session.get_one(JobRow, job_id)
            job.state, job.ended_at, job.result, job.error = JobState.DONE, change.now, values, None
            job.stopping = None
            announce(change, job)
            change.event("model.exported", model["object_id"], name=job.name, form=config["form"])


def _reference(model: ObjectRow) -> dict[str, Any]:
    return {
        "id": model.object_id,
        "name": model.name,
        "version": model.version,
        "manifest_sha256": model.manifest_sha256,
    }


def _digests(manifest: str, recipients: Sequence[str]) -> dict[str, str]:
    """Of the sealed model's manifest, and of the recipients, one a line."""
    found = {"manifest": manifest}
    if recipients:
        found["recipients"] = hashlib.sha256("".join(f"{one}\n" for one in recipients).encode()).hexdigest()
    return found
