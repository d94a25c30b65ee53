"""Shredding along lineage: planned, entered, carried out, proved, entered again; finished after any crash.

A shred is a row of the state from the moment when it is asked for. Its first entry is durable before
anything goes; then one commit turns what it destroys into tombstones, so that nothing finds it any more;
then the vault destroys the keys. Whatever was cut off in between is taken up at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import (
    ObjectKind,
    Shred,
    ShredItem,
    ShredPlan,
    ShredRequest,
)
from cloister.appliance import records
from cloister.appliance.approvals import Approvals, give_back
from cloister.appliance.burial import bury
from cloister.appliance.ids import new_id
from cloister.appliance.kept_bodies import KeptBodies
from cloister.appliance.lineage import Version
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer, peer_named
from cloister.appliance.queue import Queue
from cloister.appliance.serving import Serving
from cloister.appliance.shred_plan import plan_of, refuse_blocked, refuse_other_name, roots_of
from cloister.appliance.state import (
    ShredRow,
    TombstoneRow,
)
from cloister.appliance.store import Change
from cloister.appliance.tombstones import ending
from cloister.errors import CloisterError, Conflict, Denied, LedgerUnavailable, NotFound, OutOfSpace
from cloister.vault.shredding import Condemned, shred

log = structlog.get_logger()

RETRY_S = 5.0
NAMED_OBJECTS = 2_000
"""So many ids stand in an entry; a digest of the list stands for all of them."""


class Shredding:
    """Plans shreds and carries them out, one at a time. `busy` says what must not happen meanwhile."""

    def __init__(
        self,
        parts: Parts,
        queue: Queue,
        serving: Serving,
        bodies: KeptBodies,
        approvals: Approvals,
    ) -> None:
        self._approvals = approvals
        self._home = parts.home
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._catalogue = parts.catalogue
        self._queue = queue
        self._serving = serving
        self._bodies = bodies
        self.alone = asyncio.Lock()
        """Held while keys are destroyed, and while a backup copies: neither sees half of the other."""
        self.copying = False
        """A backup holds `alone`."""
        self._tasks: set[asyncio.Task[Shred]] = set()
        self._refused: set[str] = set()
        """Asked for, and refused before anything was entered: whoever asked was told so."""
        self._wake = asyncio.Event()

    # --- asking ----------------------------------------------------------------------------

    async def plan(self, kind: str, reference: str, version: int | None = None) -> ShredPlan:
        """What a shred would take with it, and what stands in its way. Errors: NotFound, Shredded."""
        with self._state.read() as session:
            object_id, name, roots = roots_of(session, kind, reference, version)
            plan = plan_of(session, kind, object_id, name, roots, self._state.now())
        kept = await asyncio.to_thread(self._bodies.count, _models(plan.items))
        return plan.model_copy(update={"kept_bodies": kept})

    async def shred(self, peer: Peer, kind: str, reference: str, request: ShredRequest) -> Shred:
        """Destroy a thing and everything derived from it. Goes on when the caller has left.

        Errors: InvalidInput where its name is not repeated, Conflict where a hold or a use stands in the
        way, NotFound, Denied, ApprovalNeeded, Locked, LedgerUnavailable.
        """
        _ = self._seal.vault
        self._recorder.require()
        if self.copying:
            raise Conflict("a backup is being made", where=reference[:64], remedy="Wait for its end.")
        with self._state.read() as session:
            object_id, name, roots = roots_of(session, kind, reference, request.version)
            refuse_other_name(name, request.confirm)
            plan = plan_of(session, kind, object_id, name, roots, self._state.now())
            refuse_blocked(plan, request.take_down)
        passed = await self._approvals.gate(
            peer,
            "shred.start",
            {"kind": kind, "reference": object_id, "request": request.model_dump(mode="json")},
        )
        with self._state.change() as change:
            # Nothing came between: the items are what the gate froze.
            plan = plan_of(change.session, kind, object_id, name, roots, self._state.now())
            passed.spend(change)
            row = self.ask(change, peer.account, kind, object_id, name, request)
            if passed.approval_id is not None:
                row.approval_id, row.approved = passed.approval_id, _digest(plan.items)
        task: asyncio.Task[Shred] = asyncio.create_task(self._carry_out(row.shred_id, peer))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def ask(
        self, change: Change, account: str, kind: str, object_id: str, name: str, request: ShredRequest
    ) -> ShredRow:
        """A shred in the state, to be carried out by `kick`, or at the next start."""
        row = ShredRow(
            shred_id=new_id("shred"),
            state="asked",
            kind=kind,
            object_id=object_id,
            version=request.version,
            name=name,
            take_down=request.take_down,
            asked_at=change.now,
            asked_by=account,
            items=[],
            jobs=[],
            keys=0,
            sealed_bytes=0,
        )
        change.session.add(row)
        change.session.flush()
        change.event("shred.state", row.shred_id, state=row.state, name=name)
        return row

    def kick(self) -> None:
        """Carry out soon what was asked for."""
        self._wake.set()

    def _ended(self, task: asyncio.Task[Shred]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.kick()

    def listed(self) -> list[Shred]:
        with self._state.read() as session:
            return [
                records.shred(row) for row in session.scalars(select(ShredRow).order_by(ShredRow.asked_at))
            ]

    def one(self, shred_id: str) -> Shred:
        with self._state.read() as session:
            row = session.get(ShredRow, shred_id)
            if row is None:
                raise NotFound("there is no shred of that id", where=shred_id[:64])
            return records.shred(row)

    # --- its life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Finish what was cut off, for ever: after a start, a full disk, a ledger that refused."""
        while True:
            for shred_id in self._unfinished():
                try:
                    await self._carry_out(shred_id, None)
                except CloisterError as error:
                    log.warning("shred.waits", shred=shred_id, code=error.code)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._unfinished() else None):
                    await self._wake.wait()

    async def stop(self) -> None:
        """Wait for what is under way: it takes a moment."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _unfinished(self) -> list[str]:
        with self._state.read() as session:
            waiting = select(ShredRow.shred_id).where(ShredRow.state.in_(("asked", "intended")))
            found = session.scalars(waiting.order_by(ShredRow.asked_at))
            return [shred_id for shred_id in found if shred_id not in self._refused]

    async def _carry_out(self, shred_id: str, peer: Peer | None) -> Shred:
        async with self.alone:
            with self._state.read() as session:
                row = session.get_one(ShredRow, shred_id)
            if row.state == "asked":
                try:
                    if peer is None and row.approval_id is None:
                        await self._require_still_alone(row)
                    await self._intend(row, peer)
                except (Conflict, NotFound, Denied) as error:
                    await self._abandon(row, peer, error)
                    raise
                except LedgerUnavailable as error:
                    if peer is not None:
                        self._refuse_for_good(row, error)
                    raise
            if self.one(shred_id).state == "intended":
                await self._destroy(shred_id, peer)
        return self.one(shred_id)

    async def _require_still_alone(self, row: ShredRow) -> None:
        """What was asked for earlier, and needed no approval then: whether it needs one as things are now.

        Errors: Denied, ApprovalNeeded; NotFound where the account that asked is gone.
        """
        request = ShredRequest(confirm=row.name, version=row.version, take_down=row.take_down)
        await self._approvals.refuse_gated(
            await asyncio.to_thread(peer_named, row.asked_by),
            "shred.start",
            {"kind": row.kind, "reference": row.object_id, "request": request.model_dump(mode="json")},
            remedy="Ask for it: `cloister dataset shred`, with the version that is to go.",
        )

    async def _intend(self, row: ShredRow, peer: Peer | None) -> None:
        """Take down what may be, enter the intent, and turn everything into tombstones in one commit."""
        if row.take_down:
            await self._take_down(row, peer)
        plan = self._current(row)
        refuse_blocked(plan, take_down=False)
        if row.approved is not None and row.approved != _digest(plan.items):
            raise Conflict(
                "what was derived from it is no longer what was approved",
                where=row.name,
                remedy="Ask again: it takes another approval.",
            )
        index = await self._recorder.record(
            peer,
            f"{row.kind}.shred",
            *_ids(plan.items)[:NAMED_OBJECTS],
            digests={"objects": _digest(plan.items)},
            decision="intended",
            **self._told(row, plan),
        )
        with self._state.change() as change:
            again = plan_of(change.session, *self._again(change.session, row), change.now)
            changed = _digest(again.items) != _digest(plan.items)
            if changed or again.in_use or again.holds:
                raise Conflict(
                    "what was derived from it changed meanwhile", where=row.name, remedy="Ask again."
                )
            bury(change, row.shred_id, plan, index)

    async def _abandon(self, row: ShredRow, peer: Peer | None, error: CloisterError) -> None:
        await self._recorder.record(
            peer,
            f"{row.kind}.shred",
            row.object_id,
            decision="abandoned",
            reason=error.code,
            shred=row.shred_id,
        )
        with self._state.change() as change:
            _end_undone(change, row.shred_id, error)

    def _refuse_for_good(self, row: ShredRow, error: CloisterError) -> None:
        """Nothing was entered, so there is nothing to finish; what says so in the state may come later."""
        self._refused.add(row.shred_id)
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            _end_undone(change, row.shred_id, error)

    async def _destroy(self, shred_id: str, peer: Peer | None) -> None:
        """Destroy, prove, enter. Everything here may be done twice."""
        with self._state.read() as session:
            row = session.get_one(ShredRow, shred_id)
            tomb = session.scalars(select(TombstoneRow).where(TombstoneRow.shred_id == shred_id)).first()
            note = ending(tomb) if tomb else "shredded"
        condemned = [Condemned(item["kind"], item["object_id"], item["version"]) for item in row.items]
        proof = await asyncio.to_thread(
            shred,
            self._seal.any_vault,
            self._catalogue.store,
            condemned,
            note=note,
            folders=[self._home.output_folder(job_id).parent for job_id in row.jobs],
        )
        bodies = await asyncio.to_thread(self._bodies.shred, _models(condemned), note)
        keys = row.keys or proof.keys
        with self._state.change() as change:  # a second attempt finds none of them
            change.session.get_one(ShredRow, shred_id).keys = keys
        await self._recorder.record(
            peer,
            f"{row.kind}.shredded",
            *[item.object_id for item in condemned][:NAMED_OBJECTS],
            digests={"objects": _digest(condemned)},
            decision="done",
            shred=shred_id,
            intent=row.ledger_index,
            keys_destroyed=keys,
            objects=len(condemned),
            bodies=bodies,
            opened_afterwards=0,
            backups_until=row.final_after.isoformat() if row.final_after else None,
        )
        with self._state.change() as change:
            row = change.session.get_one(ShredRow, shred_id)
            row.state, row.done_at = "done", change.now
            change.event("shred.state", shred_id, state=row.state, name=row.name)
        self._state.compact()

    # --- planning --------------------------------------------------------------------------

    def _again(self, session: Session, row: ShredRow) -> tuple[str, str, str, list[Version]]:
        return (row.kind, *roots_of(session, row.kind, row.object_id, row.version))

    def _current(self, row: ShredRow) -> ShredPlan:
        with self._state.read() as session:
            return plan_of(session, *self._again(session, row), self._state.now())

    async def _take_down(self, row: ShredRow, peer: Peer | None) -> None:
        """Stop what uses any of it, and wait until it has ended."""
        for _ in range(10):  # a job that ends may have another one come after it
            plan = self._current(row)
            refuse_blocked(plan, take_down=True)
            if not plan.in_use:
                return
            for use in plan.in_use:
                with contextlib.suppress(Conflict, NotFound):
                    if use.id.startswith("dp-"):
                        await self._serving.stop(peer, use.id)
                    else:
                        await self._queue.cancel(peer, use.id)
            await self._queue.ended([use.id for use in plan.in_use])

    # --- writing it down -------------------------------------------------------------------

    def _told(self, row: ShredRow, plan: ShredPlan) -> dict[str, object]:
        kinds = [str(item.kind) for item in plan.items]
        return {
            "shred": row.shred_id,
            "name": row.name,
            "asked_by": row.asked_by,
            **({} if row.approval_id is None else {"approval": row.approval_id}),
            "versions": plan.versions,
            "counts": {**{kind: kinds.count(kind) for kind in sorted(set(kinds))}, "run": len(plan.runs)},
            "backups": [backup.backup_id for backup in plan.backups][:100],
            "backups_until": plan.final_after.isoformat() if plan.final_after else None,
        }


def _end_undone(change: Change, shred_id: str, error: CloisterError) -> None:
    """Nothing was destroyed: its row says why, and the approval that it took stands again."""
    row = change.session.get_one(ShredRow, shred_id)
    row.state, row.problem, row.done_at = "abandoned", error.message, change.now
    if row.approval_id is not None:
        give_back(change, row.approval_id)
    change.event("shred.state", row.shred_id, state=row.state, name=row.name)


def _models(items: Sequence[ShredItem | Condemned]) -> list[str]:
    return [item.object_id for item in items if item.kind == ObjectKind.MODEL]


def _ids(items: Sequence[ShredItem]) -> list[str]:
    return [item.object_id for item in items]


def _digest(items: Sequence[ShredItem | Condemned]) -> str:
    """SHA-256 of the list of what goes, a line each."""
    lines = sorted(f"{item.kind} {item.object_id} {item.version}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
