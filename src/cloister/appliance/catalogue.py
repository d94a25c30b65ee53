"""The objects that exist: found by name or id, and taken in from a worker's output folder.

Taking in checks the manifest, each file's size, the digest of its ciphertext and its header; no chunk is
decrypted.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import ObjectKind
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal
from cloister.appliance.state import JobRow, ObjectRow
from cloister.appliance.store import StateStore
from cloister.appliance.tombstones import refuse_shredded
from cloister.errors import Conflict, NotFound, Tampered
from cloister.vault import InputRef, Manifest, ObjectStore, read_manifest, sign_manifest

COMMAND = {
    ObjectKind.DATASET: "cloister dataset list",
    ObjectKind.BASE: "cloister base list",
    ObjectKind.ADAPTER: "cloister run list",
    ObjectKind.EVALUATION: "cloister run list",
    ObjectKind.MODEL: "cloister model list",
}


def find(session: Session, kind: ObjectKind, reference: str) -> ObjectRow:
    """The newest version of the object of this id, else of this name. Errors: NotFound, Shredded."""
    row = session.scalars(
        select(ObjectRow)
        .where(ObjectRow.kind == kind)
        .where((ObjectRow.object_id == reference) | (ObjectRow.name == reference))
        .order_by(
            (ObjectRow.object_id == reference).desc(), ObjectRow.created_at.desc(), ObjectRow.version.desc()
        )
    ).first()
    if row is None:
        refuse_shredded(session, kind, reference)
        raise NotFound(
            f"there is no {kind} of that name or id", where=reference[:64], remedy=f"See `{COMMAND[kind]}`."
        )
    return row


def listed(session: Session, kind: ObjectKind) -> list[ObjectRow]:
    return list(
        session.scalars(select(ObjectRow).where(ObjectRow.kind == kind).order_by(ObjectRow.created_at))
    )


def refuse_taken_name(session: Session, kind: ObjectKind, name: str) -> None:
    """Errors: Conflict where an object has this name, or a job is about to make it."""
    if session.scalars(select(ObjectRow).where(ObjectRow.kind == kind, ObjectRow.name == name)).first():
        raise Conflict(f"a {kind} of that name exists", where=name, remedy="Choose another name.")
    making = {
        ObjectKind.DATASET: ("import", "derive"),
        ObjectKind.BASE: ("base",),
        ObjectKind.MODEL: ("merge",),
    }.get(kind, ())
    pending = select(JobRow).where(
        JobRow.verb.in_(making),
        JobRow.name == name,
        JobRow.state.in_(("waiting-source", "queued", "running")),
    )
    if session.scalars(pending).first():
        raise Conflict(f"a {kind} of that name is being made", where=name, remedy="See `cloister status`.")


class Catalogue:
    """Objects on disk and in the state, kept in step."""

    def __init__(self, root: Path, state: StateStore, seal: Seal, recorder: Recorder) -> None:
        self.store = ObjectStore(root)
        self._state = state
        self._seal = seal
        self._recorder = recorder

    def folder(self, row: ObjectRow) -> Path:
        return self.store.folder(row.kind, row.object_id, row.version)

    async def take_in(
        self, row: JobRow, output: Path, *, kind: ObjectKind, ledger_index: int, details: dict[str, Any]
    ) -> ObjectRow:
        """Check a worker's output, sign its manifest, enter it, and move it into the store.

        Asked again after a crash, it finds what is in place already. Errors: Tampered, naming the file.
        """
        subject = row.subject or ""
        place = self.store.folder(kind, subject, row.output_version)
        if place.exists() and not output.exists():
            manifest = read_manifest(place)
        else:
            manifest = self._signed(row, read_manifest(output), subject, kind, ledger_index)
            await self._recorder.record(
                None, f"{kind}.register", subject, digests={"manifest": manifest.sha256}
            )
            await asyncio.to_thread(self.store.adopt, output, manifest)
        return ObjectRow(
            object_id=subject,
            version=manifest.version,
            kind=kind,
            name=row.name,
            created_at=self._state.now(),
            created_by=row.requested_by,
            sealed_bytes=manifest.sealed_bytes,
            manifest_sha256=manifest.sha256,
            inputs=[ref.object_id for ref in manifest.inputs],
            counts=dict(manifest.counts),
            details=details,
        )

    def _signed(
        self, row: JobRow, draft: Manifest, subject: str, kind: ObjectKind, ledger_index: int
    ) -> Manifest:
        """The worker's manifest with what only the authority knows, signed."""
        if (draft.object_id, draft.kind, draft.version) != (subject, str(kind), row.output_version):
            raise Tampered("the worker's manifest is of another object", where=row.job_id)
        if draft.sealed != (kind != ObjectKind.BASE):
            raise Tampered("the worker's files are not sealed as they must be", where=row.job_id)
        inputs = tuple(InputRef(**reference) for reference in row.inputs.values())
        return sign_manifest(
            msgspec.structs.replace(
                draft,
                created_by=row.requested_by,
                inputs=inputs,
                config_digest=self._seal.config_digest(row.config),
                ledger_index=ledger_index,
            ),
            self._seal.manifest_key(),
        )
