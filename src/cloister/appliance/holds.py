"""Legal holds on datasets: placed and released by an entry each. Whoever shreds asks what they block."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import Hold, ObjectKind
from cloister.appliance.catalogue import find
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import HoldRow
from cloister.appliance.store import StateStore
from cloister.errors import Conflict


def hold_document(row: HoldRow) -> Hold:
    return Hold(
        hold_id=row.hold_id,
        object_id=row.object_id,
        name=row.name,
        reason=row.reason,
        placed_at=row.placed_at,
        placed_by=row.placed_by,
        released_at=row.released_at,
        released_by=row.released_by,
    )


def words_of(hold: Hold) -> str:
    """What a refusal says of a hold."""
    return (
        f"a legal hold of {hold.placed_at:%Y-%m-%d} by {hold.placed_by} keeps {hold.name} and what "
        f"was derived from it: {hold.reason}"
    )


class Holds:
    """Places and releases holds."""

    def __init__(self, state: StateStore, recorder: Recorder) -> None:
        self._state = state
        self._recorder = recorder

    async def place(self, peer: Peer, reference: str, reason: str) -> Hold:
        """Hold a dataset. Several holds may stand at once. Errors: NotFound, LedgerUnavailable."""
        with self._state.read() as session:
            dataset = find(session, ObjectKind.DATASET, reference)
        hold_id = new_id("hold")
        await self._recorder.record(
            peer, "dataset.hold", dataset.object_id, hold_id, reason=reason, name=dataset.name
        )
        with self._state.change() as change:
            find(change.session, ObjectKind.DATASET, dataset.object_id)  # it may have been shredded meanwhile
            row = HoldRow(
                hold_id=hold_id,
                object_id=dataset.object_id,
                name=dataset.name,
                reason=reason,
                placed_at=change.now,
                placed_by=peer.account,
            )
            change.session.add(row)
            change.event("dataset.held", dataset.object_id, name=dataset.name, hold=hold_id)
        return hold_document(row)

    async def release(self, peer: Peer, reference: str) -> list[Hold]:
        """End the holds on a dataset, or the one of that id. Errors: Conflict where none stands."""
        with self._state.read() as session:
            held = [row.hold_id for row in self._standing(session, reference)]
            if not held:
                dataset = find(session, ObjectKind.DATASET, reference)
                raise Conflict("no legal hold stands on this dataset", where=dataset.name)
            objects = {row.object_id for row in self._standing(session, reference)}
        await self._recorder.record(peer, "dataset.release", *sorted(objects), *held)
        with self._state.change() as change:
            rows = [change.session.get_one(HoldRow, hold_id) for hold_id in held]
            for row in rows:
                row.released_at, row.released_by = change.now, peer.account
                change.event("dataset.released", row.object_id, name=row.name, hold=row.hold_id)
        return [hold_document(row) for row in rows]

    def listed(self) -> list[Hold]:
        with self._state.read() as session:
            return [
                hold_document(row) for row in session.scalars(select(HoldRow).order_by(HoldRow.placed_at))
            ]

    @staticmethod
    def _standing(session: Session, reference: str) -> list[HoldRow]:
        wanted = (
            (HoldRow.hold_id == reference) | (HoldRow.object_id == reference) | (HoldRow.name == reference)
        )
        return list(session.scalars(select(HoldRow).where(wanted, HoldRow.released_at.is_(None))))
