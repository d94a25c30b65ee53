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
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cloister.api import (
    JobState,
    ObjectKind,
    Problem,
    Shred,
    ShredItem,
    ShredPlan,
    ShredRequest,
    ShredUse,
)
from cloister.appliance import records
from cloister.appliance.catalogue import find
from cloister.appliance.holds import hold_document
from cloister.appliance.ids import new_id
from cloister.appliance.jobs import OUTPUT_KIND
from cloister.appliance.lineage import Lineage, Version, holds_on, lineage
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.queue import Queue
from cloister.appliance.serving import Serving
from cloister.appliance.state import (
    BackupRow,
    EventRow,
    JobRow,
    ObjectRow,
    RunRow,
    ShredRow,
    TombstoneRow,
)
from cloister.appliance.store import Change
from cloister.appliance.tombstones import ending, refuse_shredded
from cloister.errors import CloisterError, Conflict, InvalidInput, LedgerUnavailable, NotFound, OutOfSpace
from cloister.vault.shredding import Condemned, shred

log = structlog.get_logger()

RUN = "run"
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
    ) -> None:
        self._home = parts.home
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._catalogue = parts.catalogue
        self._queue = queue
        self._serving = serving
        self.alone = asyncio.Lock()
        """Held while keys are destroyed, and while a backup copies: neither sees half of the other."""
        self.copying = False
        """A backup holds `alone`."""
        self._tasks: set[asyncio.Task[Shred]] = set()
        self._refused: set[str] = set()
        """Asked for, and refused before anything was entered: whoever asked was told so."""
        self._wake = asyncio.Event()

    # --- asking ----------------------------------------------------------------------------

    def plan(self, kind: str, reference: str, version: int | None = None) -> ShredPlan:
        """What a shred would take with it, and what stands in its way. Errors: NotFound, Shredded."""
        with self._state.read() as session:
            object_id, name, roots = self._roots(session, kind, reference, version)
            return self._plan(session, kind, object_id, name, roots)

    async def shred(self, peer: Peer, kind: str, reference: str, request: ShredRequest) -> Shred:
        """Destroy a thing and everything derived from it. Goes on when the caller has left.

        Errors: InvalidInput where its name is not repeated, Conflict where a hold or a use stands in the
        way, NotFound, Locked, LedgerUnavailable.
        """
        _ = self._seal.vault
        self._recorder.require()
        if self.copying:
            raise Conflict("a backup is being made", where=reference[:64], remedy="Wait for its end.")
        with self._state.read() as session:
            object_id, name, roots = self._roots(session, kind, reference, request.version)
            refuse_other_name(name, request.confirm)
            self.refuse(self._plan(session, kind, object_id, name, roots), request.take_down)
        with self._state.change() as change:
            row = self.ask(change, peer.account, kind, object_id, name, request)
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
                shred_document(row) for row in session.scalars(select(ShredRow).order_by(ShredRow.asked_at))
            ]

    def one(self, shred_id: str) -> Shred:
        with self._state.read() as session:
            row = session.get(ShredRow, shred_id)
            if row is None:
                raise NotFound("there is no shred of that id", where=shred_id[:64])
            return shred_document(row)

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
                    await self._intend(row, peer)
                except (Conflict, NotFound) as error:
                    await self._abandon(row, peer, error)
                    raise
                except LedgerUnavailable as error:
                    if peer is not None:
                        self._refuse_for_good(row, error)
                    raise
            if self.one(shred_id).state == "intended":
                await self._destroy(shred_id, peer)
        return self.one(shred_id)

    async def _intend(self, row: ShredRow, peer: Peer | None) -> None:
        """Take down what may be, enter the intent, and turn everything into tombstones in one commit."""
        if row.take_down:
            await self._take_down(row, peer)
        plan = self._current(row)
        self.refuse(plan, take_down=False)
        index = await self._recorder.record(
            peer,
            f"{row.kind}.shred",
            *_ids(plan.items)[:NAMED_OBJECTS],
            digests={"objects": _digest(plan.items)},
            decision="intended",
            **self._told(row, plan),
        )
        with self._state.change() as change:
            again = self._plan(change.session, *self._again(change.session, row))
            changed = _digest(again.items) != _digest(plan.items)
            if changed or again.in_use or again.holds:
                raise Conflict(
                    "what was derived from it changed meanwhile", where=row.name, remedy="Ask again."
                )
            self._bury(change, row.shred_id, plan, index)

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
            kept = change.session.get_one(ShredRow, row.shred_id)
            kept.state, kept.problem, kept.done_at = "abandoned", error.message, change.now
            change.event("shred.state", kept.shred_id, state=kept.state, name=kept.name)

    def _refuse_for_good(self, row: ShredRow, error: CloisterError) -> None:
        """Nothing was entered, so there is nothing to finish; what says so in the state may come later."""
        self._refused.add(row.shred_id)
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            kept = change.session.get_one(ShredRow, row.shred_id)
            kept.state, kept.problem, kept.done_at = "abandoned", error.message, change.now

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
            opened_afterwards=0,
            backups_until=row.final_after.isoformat() if row.final_after else None,
        )
        with self._state.change() as change:
            row = change.session.get_one(ShredRow, shred_id)
            row.state, row.done_at = "done", change.now
            change.event("shred.state", shred_id, state=row.state, name=row.name)
        self._state.compact()

    # --- planning --------------------------------------------------------------------------

    def _roots(
        self, session: Session, kind: str, reference: str, version: int | None
    ) -> tuple[str, str, list[Version]]:
        """Id, name and object versions of what a reference names."""
        if kind == RUN:
            if version is not None:
                raise InvalidInput("a run has no versions", where=reference[:64])
            run = session.scalars(
                select(RunRow).where((RunRow.run_id == reference) | (RunRow.name == reference))
            ).first()
            if run is None:
                refuse_shredded(session, RUN, reference)
                raise NotFound(
                    "there is no run of that name or id",
                    where=reference[:64],
                    remedy="See `cloister run list`.",
                )
            job = session.get_one(JobRow, run.train_job)
            return run.run_id, run.name, [(job.subject or "", job.output_version)]
        row = find(session, ObjectKind(kind), reference)
        rows = session.scalars(select(ObjectRow).where(ObjectRow.object_id == row.object_id)).all()
        chosen = {(r.object_id, r.version) for r in rows if version in (None, r.version)}
        if version is None:  # what a job that was cut off began has a key too
            made = session.scalars(select(JobRow).where(JobRow.subject == row.object_id))
            chosen |= {(row.object_id, job.output_version) for job in made}
        if not chosen:
            tomb = session.get(TombstoneRow, (row.object_id, version))
            if tomb is not None:
                refuse_shredded(session, kind, tomb.object_id)
            raise NotFound(f"this {kind} has no version {version}", where=row.name)
        return row.object_id, row.name, sorted(chosen)

    def _plan(
        self, session: Session, kind: str, object_id: str, name: str, roots: Sequence[Version]
    ) -> ShredPlan:
        found = lineage(session, roots)
        uses = [ShredUse(id=d.deployment_id, name=d.name, state=d.state) for d in found.served]
        uses += [ShredUse(id=j.job_id, name=j.name, state=f"{j.verb} {j.state}") for j in found.using]
        backups = self._backups(session, found)
        return ShredPlan(
            kind=kind,
            object_id=object_id,
            name=name,
            versions=[version for _, version in roots],
            items=_items(session, found),
            runs={run.run_id: run.name for run in found.runs},
            jobs=[job.job_id for job in found.makers],
            in_use=uses,
            holds=[hold_document(row) for row in holds_on(session, found.versions)],
            backups=[records.backup(row) for row in backups],
            final_after=max((row.keys_until for row in backups), default=None),
        )

    def _backups(self, session: Session, found: Lineage) -> list[BackupRow]:
        """The backups of the key store that were made when one of these had a key, and are still kept."""
        began = [job.started_at or job.created_at for job in found.makers]
        began += [row.created_at for row in found.stored]
        if not began:
            return []
        kept = select(BackupRow).where(
            BackupRow.made_at >= min(began),
            BackupRow.keys_until > self._state.now(),
            BackupRow.discarded_at.is_(None),
        )
        return list(session.scalars(kept.order_by(BackupRow.made_at)))

    def _again(self, session: Session, row: ShredRow) -> tuple[str, str, str, list[Version]]:
        return (row.kind, *self._roots(session, row.kind, row.object_id, row.version))

    def _current(self, row: ShredRow) -> ShredPlan:
        with self._state.read() as session:
            return self._plan(session, *self._again(session, row))

    @staticmethod
    def refuse(plan: ShredPlan, take_down: bool) -> None:
        """Errors: Conflict where a hold or a use stands in the way."""
        if plan.holds:
            hold = plan.holds[0]
            raise Conflict(
                f"a legal hold of {hold.placed_at:%Y-%m-%d} by {hold.placed_by} keeps {hold.name} and what "
                f"was derived from it: {hold.reason}",
                where=plan.name,
                remedy=f"Whoever placed it may `cloister dataset release {hold.name}`.",
            )
        if plan.in_use and not take_down:
            uses = ", ".join(f"{use.name} ({use.state})" for use in plan.in_use[:8])
            raise Conflict(
                f"something derived from it is in use: {uses}",
                where=plan.name,
                remedy="Stop it first, or shred with --take-down.",
            )

    async def _take_down(self, row: ShredRow, peer: Peer | None) -> None:
        """Stop what uses any of it, and wait until it has ended."""
        for _ in range(10):  # a job that ends may have another one come after it
            plan = self._current(row)
            self.refuse(plan, take_down=True)
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
            "versions": plan.versions,
            "counts": {**{kind: kinds.count(kind) for kind in sorted(set(kinds))}, "run": len(plan.runs)},
            "backups": [backup.backup_id for backup in plan.backups][:100],
            "backups_until": plan.final_after.isoformat() if plan.final_after else None,
        }

    def _bury(self, change: Change, shred_id: str, plan: ShredPlan, index: int) -> None:
        """Tombstones in the place of everything, and no figure left that was drawn from it."""
        session = change.session
        row = session.get_one(ShredRow, shred_id)
        row.state, row.ledger_index, row.final_after = "intended", index, plan.final_after
        row.items = [{"kind": i.kind, "object_id": i.object_id, "version": i.version} for i in plan.items]
        row.jobs = plan.jobs
        row.sealed_bytes = sum(item.sealed_bytes for item in plan.items)

        def tombstone(kind: str, object_id: str, version: int, name: str) -> None:
            session.merge(
                TombstoneRow(
                    object_id=object_id,
                    version=version,
                    kind=kind,
                    name=name,
                    shredded_at=change.now,
                    shredded_by=row.asked_by,
                    shred_id=shred_id,
                    ledger_index=index,
                )
            )

        for item in plan.items:
            tombstone(item.kind, item.object_id, item.version, item.name)
            stored = session.get(ObjectRow, (item.object_id, item.version))
            if stored is not None:
                session.delete(stored)
            change.event(f"{item.kind}.shredded", item.object_id, name=item.name, version=item.version)
        for run_id, name in plan.runs.items():
            tombstone(RUN, run_id, 0, name)
            session.delete(session.get_one(RunRow, run_id))
            change.event("run.shredded", run_id, name=name)
        for job_id in plan.jobs:
            job = session.get_one(JobRow, job_id)
            if job.state != JobState.DONE:
                job.state, job.error = JobState.CANCELLED, _shredded(row)
            job.metrics, job.result, job.progress = {}, {}, None
            session.execute(delete(EventRow).where(EventRow.subject == job_id))
            change.event("job.state", job_id, state=job.state, verb=job.verb, name=job.name)
        change.event("shred.state", shred_id, state=row.state, name=row.name)


def _items(session: Session, found: Lineage) -> list[ShredItem]:
    stored = {(row.object_id, row.version): row for row in found.stored}
    makers: dict[Version, JobRow] = {(j.subject or "", j.output_version): j for j in found.makers}
    items = []
    for object_id, version in found.versions:
        row, job = stored.get((object_id, version)), makers.get((object_id, version))
        if row is None and job is None:
            continue
        items.append(
            ShredItem(
                object_id=object_id,
                version=version,
                kind=ObjectKind(row.kind) if row else OUTPUT_KIND[job.verb],  # type: ignore[union-attr]
                name=row.name if row else job.name,  # type: ignore[union-attr]
                stored=row is not None,
                sealed_bytes=row.sealed_bytes if row else 0,
            )
        )
    return items


def _ids(items: Sequence[ShredItem]) -> list[str]:
    return [item.object_id for item in items]


def _digest(items: Sequence[ShredItem | Condemned]) -> str:
    """SHA-256 of the list of what goes, a line each."""
    lines = sorted(f"{item.kind} {item.object_id} {item.version}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _shredded(row: ShredRow) -> dict[str, object]:
    detail = f"what it read or made was shredded with {row.kind} {row.name} by {row.asked_by}"
    return Problem(title="Shredded", status=410, code="shredded", detail=detail).model_dump()


def refuse_other_name(name: str, confirm: str | None) -> None:
    """Errors: InvalidInput unless the thing's own name was repeated."""
    if confirm != name:
        raise InvalidInput(
            "the name that was repeated is not the name of what would be shredded; nothing was done",
            where=name,
            remedy=f"Repeat {name}.",
        )


def shred_document(row: ShredRow) -> Shred:
    return Shred(
        shred_id=row.shred_id,
        state=row.state,
        kind=row.kind,
        object_id=row.object_id,
        name=row.name,
        asked_at=row.asked_at,
        asked_by=row.asked_by,
        done_at=row.done_at,
        objects=len(row.items),
        keys=row.keys,
        sealed_bytes=row.sealed_bytes,
        final_after=row.final_after,
        problem=row.problem,
    )
