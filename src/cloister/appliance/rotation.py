"""Re-encrypting one object: a worker seals it again under a fresh data key, as the object's next version.

The version before it is retired: its key destroyed, its files removed. Its manifest's digest, which derived
objects and ledger entries name, stays true: the new manifest, signed, says which version with which digest it
was sealed from. The authority decrypts no chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import Job, JobState, ObjectKind, RotateConfig
from cloister.appliance import records
from cloister.appliance.jobs import PENDING, announce
from cloister.appliance.lineage import next_version
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.queue import Queue
from cloister.appliance.state import LIVE, DeploymentRow, JobRow, ObjectRow
from cloister.errors import Conflict, InvalidInput, NotFound, Tampered
from cloister.vault import InputRef, Manifest, read_manifest, sign_manifest

VERB = "rotate"
ROLE = "object"
WAIT_S = 1.0
"""How often it is asked whether the version before is still in use."""


class Rotation:
    """Starts rotations of objects and completes them."""

    def __init__(
        self,
        parts: Parts,
        queue: Queue,
        *,
        refuse_start: Callable[[], Awaitable[None]],
    ) -> None:
        self._home = parts.home
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._catalogue = parts.catalogue
        self._queue = queue
        self._refuse_start = refuse_start

    async def start(self, peer: Peer, reference: str) -> Job:
        """Queue the rotation of the newest version. Errors: NotFound, Conflict, InvalidInput, Locked."""
        await self._refuse_start()
        with self._state.read() as session:
            row = find_any(session, reference)
            self._refuse(session, row)
            version = next_version(session, row.object_id)
        config = RotateConfig(kind=ObjectKind(row.kind), version=version)
        await self._recorder.record(
            peer, "vault.rotate.object", row.object_id, digests={"manifest": row.manifest_sha256}
        )
        with self._state.change() as change:
            row = find_any(change.session, row.object_id)
            self._refuse(change.session, row)
            job = self._queue.add(
                change,
                peer.account,
                VERB,
                row.name,
                config.model_dump(mode="json"),
                {ROLE: row},
                output=(row.object_id, config.version),
            )
            return records.job(job)

    def _refuse(self, session: Session, row: ObjectRow) -> None:
        if row.kind == ObjectKind.BASE:
            raise InvalidInput("a base model lies in the open: it has no key to rotate", where=row.name)
        for job in session.scalars(select(JobRow).where(JobRow.state.in_(PENDING))):
            if job.verb == VERB and job.subject == row.object_id:
                raise Conflict("it is being rotated already", where=row.object_id)
            if _uses(job, row.object_id, row.version):
                raise Conflict(
                    f"the job {job.job_id} uses it", where=row.object_id, remedy="Wait for it, or stop it."
                )
        deployed = select(DeploymentRow).where(
            DeploymentRow.model == row.object_id, DeploymentRow.state.in_(LIVE)
        )
        serving = session.scalars(deployed).first()
        if serving is not None:
            raise Conflict(f"{serving.name} serves it", where=row.object_id, remedy="Stop serving it first.")

    async def complete(self, job_id: str, values: dict[str, Any], ledger_index: int) -> None:
        """Take the new version in and retire the one before. Asked again after a crash, it goes on.

        Errors: Tampered, naming the file; LedgerUnavailable, OutOfSpace.
        """
        with self._state.read() as session:
            job = session.get_one(JobRow, job_id)
            subject, config = job.subject or "", RotateConfig.model_validate(job.config)
            before = job.inputs[ROLE]["version"]
            registered = session.get(ObjectRow, (subject, config.version)) is not None
        if not registered:
            await self._register(job, config, values, ledger_index)
        await self._retire(job, config, subject, before)
        with self._state.change() as change:
            job = change.session.get_one(JobRow, job_id)
            job.state, job.ended_at, job.result, job.error = JobState.DONE, change.now, values, None
            job.stopping = None
            announce(change, job)

    async def _register(
        self, job: JobRow, config: RotateConfig, values: dict[str, Any], ledger_index: int
    ) -> None:
        subject, before = job.subject or "", job.inputs[ROLE]["version"]
        output = self._home.output_folder(job.job_id)
        store = self._catalogue.store
        place = store.folder(config.kind, subject, config.version)
        old = store.manifest(config.kind, subject, before, sha256=job.inputs[ROLE]["manifest_sha256"])
        if place.exists() and not output.exists():
            manifest = read_manifest(place)
        else:
            manifest = self._signed(job, read_manifest(output), old, config, ledger_index)
            digests = {"manifest": manifest.sha256, "sealed_from": old.sha256}
            await self._recorder.record(None, f"{config.kind}.register", subject, digests=digests)
            await asyncio.to_thread(store.adopt, output, manifest)
        while self._in_use(job.job_id, subject, before):
            await asyncio.sleep(WAIT_S)
        with self._state.change() as change:
            row = change.session.get_one(ObjectRow, (subject, before))
            change.session.add(
                ObjectRow(
                    object_id=subject,
                    version=config.version,
                    kind=row.kind,
                    name=row.name,
                    created_at=row.created_at,
                    created_by=row.created_by,
                    sealed_bytes=manifest.sealed_bytes,
                    manifest_sha256=manifest.sha256,
                    inputs=row.inputs,
                    counts=row.counts,
                    details=row.details,
                )
            )
            change.session.delete(row)
            _point_to_new(change.session, job.job_id, subject, before, config.version, manifest.sha256)
            change.event(f"{config.kind}.rotated", subject, version=config.version)

    def _signed(
        self, job: JobRow, draft: Manifest, old: Manifest, config: RotateConfig, ledger_index: int
    ) -> Manifest:
        """The worker's manifest, found to be of the same content, with what only the authority knows."""
        if (draft.object_id, draft.kind, draft.version) != (old.object_id, old.kind, config.version):
            raise Tampered("the worker's manifest is of another object", where=job.job_id)
        same = [{record.path: record.size for record in manifest.files} for manifest in (draft, old)]
        if not draft.sealed or same[0] != same[1]:
            raise Tampered("the worker's files are not those of the object", where=job.job_id)
        return sign_manifest(
            msgspec.structs.replace(
                draft,
                created_by=job.requested_by,
                inputs=(*old.inputs, InputRef(old.object_id, old.version, old.sha256)),
                config_digest=old.config_digest,
                counts=old.counts,
                details=old.details,
                ledger_index=ledger_index,
            ),
            self._seal.manifest_key(),
        )

    async def _retire(self, job: JobRow, config: RotateConfig, subject: str, before: int) -> None:
        vault, store = self._seal.vault, self._catalogue.store
        note = f"re-encrypted as version {config.version} for {job.requested_by} by {job.job_id}"
        await self._recorder.record(None, "object.retire", subject, version=before, successor=config.version)
        await asyncio.to_thread(vault.destroy_data_key, subject, before, note=note)
        if store.folder(config.kind, subject, before).exists():
            await asyncio.to_thread(store.remove, config.kind, subject, before)

    def _in_use(self, job_id: str, object_id: str, version: int) -> bool:
        """Whether a job that has been started, or an engine, reads that version."""
        with self._state.read() as session:
            known: Collection[str] = self._queue.known
            jobs = [session.get(JobRow, other) for other in known if other != job_id]
            served = session.scalars(select(DeploymentRow.model).where(DeploymentRow.state.in_(LIVE))).all()
            return object_id in served or any(
                job is not None and _uses(job, object_id, version) for job in jobs
            )


def find_any(session: Session, reference: str) -> ObjectRow:
    """The newest version of the object of this id, or of this name where just one has it.

    Errors: NotFound, Conflict.
    """
    rows = session.scalars(
        select(ObjectRow)
        .where((ObjectRow.object_id == reference) | (ObjectRow.name == reference))
        .order_by(ObjectRow.version.desc())
    ).all()
    if not rows:
        raise NotFound("there is no object of that name or id", where=reference[:64])
    if len({row.object_id for row in rows}) > 1:
        ids = ", ".join(sorted({row.object_id for row in rows}))
        raise Conflict("several objects have this name", where=reference[:64], remedy=f"Name one: {ids}.")
    return rows[0]


def _uses(job: JobRow, object_id: str, version: int) -> bool:
    return any(
        reference["object_id"] == object_id and reference["version"] == version
        for reference in job.inputs.values()
    )


def _point_to_new(
    session: Session, but: str, object_id: str, before: int, version: int, manifest_sha256: str
) -> None:
    """Jobs that wait, or may be resumed, go on with the new version."""
    for job in session.scalars(select(JobRow).where(JobRow.state != JobState.DONE, JobRow.job_id != but)):
        if _uses(job, object_id, before):
            new = {"object_id": object_id, "version": version, "manifest_sha256": manifest_sha256}
            job.inputs = {
                role: new if (old["object_id"], old["version"]) == (object_id, before) else old
                for role, old in job.inputs.items()
            }
