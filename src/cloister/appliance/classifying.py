"""How strictly datasets are kept. Stricter is one person's word, milder takes an approval."""

from __future__ import annotations

from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import Classification, ClassifyRequest, ObjectKind, StoredObject
from cloister.appliance import records
from cloister.appliance.approvals import Approvals, Pass
from cloister.appliance.catalogue import find
from cloister.appliance.facts import dataset_class
from cloister.appliance.lineage import lineage
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import ClassificationRow, ObjectRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import Conflict
from cloister.policy.things import CLASSIFICATIONS


def classify(change: Change, object_id: str, classification: str, account: str) -> None:
    """Set what a dataset is, in the caller's transaction."""
    change.session.merge(
        ClassificationRow(
            object_id=object_id, classification=classification, set_at=change.now, set_by=account
        )
    )


class Classifying:
    """Changes classifications."""

    def __init__(self, state: StateStore, recorder: Recorder, approvals: Approvals) -> None:
        self._state = state
        self._recorder = recorder
        self._approvals = approvals

    async def stricter(self, peer: Peer, reference: str, request: ClassifyRequest) -> StoredObject:
        """Classify a dataset more strictly, and the datasets derived from it that would be milder.

        Errors: NotFound, Conflict where it would not be, LedgerUnavailable.
        """
        row, before = self._now(reference)
        if CLASSIFICATIONS.index(request.classification) <= CLASSIFICATIONS.index(before):
            raise Conflict(
                f"it is {before} already, and {request.classification} is no stricter", where=row.name
            )
        return await self._set(peer, row, before, request, Pass())

    async def milder(self, peer: Peer, reference: str, request: ClassifyRequest) -> StoredObject:
        """Classify a dataset less strictly. Errors: NotFound, Conflict, Denied, ApprovalNeeded, LedgerUnavailable."""
        row, before = self._now(reference)
        if CLASSIFICATIONS.index(request.classification) >= CLASSIFICATIONS.index(before):
            raise Conflict(
                f"it is {before} already, and {request.classification} is no milder", where=row.name
            )
        asked = {"reference": row.object_id, "classification": request.classification}
        passed = await self._approvals.gate(peer, "dataset.declassify", asked)
        return await self._set(peer, row, before, request, passed)

    def _now(self, reference: str) -> tuple[ObjectRow, Classification]:
        with self._state.read() as session:
            row = find(session, ObjectKind.DATASET, reference)
            return row, dataset_class(session, row.object_id)

    async def _set(
        self, peer: Peer, row: ObjectRow, before: Classification, request: ClassifyRequest, passed: Pass
    ) -> StoredObject:
        with self._state.read() as session:
            below = _milder_below(session, row.object_id, request.classification)
        await self._recorder.record(
            peer,
            "dataset.classify",
            row.object_id,
            *below,
            name=row.name,
            before=before,
            classification=request.classification,
            **passed.told,
        )
        with self._state.change() as change:
            if dataset_class(change.session, row.object_id) != before:
                raise Conflict(
                    "somebody else has classified it meanwhile", where=row.name, remedy="Look again."
                )
            passed.spend(change)
            for made in (
                row.object_id,
                *_milder_below(change.session, row.object_id, request.classification),
            ):
                classify(change, made, request.classification, peer.account)
            change.event(
                "dataset.classified", row.object_id, name=row.name, classification=request.classification
            )
            return records.stored_object(row, request.classification)


def _milder_below(session: Session, object_id: str, classification: Classification) -> list[str]:
    """The datasets derived from one, however far, that are milder than it is to be; none where it becomes milder."""
    if CLASSIFICATIONS.index(classification) <= CLASSIFICATIONS.index(dataset_class(session, object_id)):
        return []
    versions = session.scalars(select(ObjectRow.version).where(ObjectRow.object_id == object_id)).all()
    derived = {made for made, _ in lineage(session, [(object_id, version) for version in versions]).versions}
    classified = session.scalars(
        select(ClassificationRow).where(ClassificationRow.object_id.in_(derived - {object_id}))
    ).all()
    order = CLASSIFICATIONS.index(classification)
    return sorted(
        row.object_id
        for row in classified
        if CLASSIFICATIONS.index(cast(Classification, row.classification)) < order
    )
