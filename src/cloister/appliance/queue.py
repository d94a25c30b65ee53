"""The job queue: what was asked for, in order, each in a sandbox of its own, each to one final state.

A job lives in the state database, so it survives a restart: a sandbox that still runs is followed on
from the last line that was taken in; one that is gone leaves its job `interrupted`, to be resumed.
The queue names objects and hands out keys. It sees events, never rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import select

from cloister.api import JobState, Result, SandboxState
from cloister.appliance import records
from cloister.appliance.curves import forget_points
from cloister.appliance.endings import Endings, stronger
from cloister.appliance.following import Follower
from cloister.appliance.handed import Handed
from cloister.appliance.intake import Intake
from cloister.appliance.job_choice import Chosen, JobChoice
from cloister.appliance.job_starts import CONTENT_LOST, SOURCE_LOST, JobStarts
from cloister.appliance.jobs import (
    CONTENT,
    LIGHT,
    PENDING,
    RESUMABLE,
    SHORT,
    Finished,
    announce,
    job_row,
    new_job,
    refuse_resume,
)
from cloister.appliance.outlook import Outlook
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.room import Room
from cloister.appliance.side import TOKEN_LIFE_S, Delivery
from cloister.appliance.state import JobRow, ObjectRow
from cloister.appliance.store import Change
from cloister.appliance.tombstones import refuse_shredded_job
from cloister.errors import CloisterError, Conflict, JobFailed, NotFound
from cloister.launcher.client import NoAnswer
from cloister.logs import place

log = structlog.get_logger()

SOURCE_WAIT_S = TOKEN_LIFE_S
"""How long a job waits for a client that has asked for it and not handed over its source."""
STOPPED_S = 5.0
"""How long whoever ends a job that does not run waits until the state has that; it ends in any case."""


class Queue:
    """Starts jobs as slots allow, follows them, and takes in what they made."""

    def __init__(
        self, parts: Parts, *, refuse_work: Callable[[], None], on_done: Finished, room: Room | None = None
    ) -> None:
        self._parts = parts
        self._state = parts.state
        self._recorder = parts.recorder
        self._launcher = parts.launcher
        self._limits = parts.settings.queue
        self._devices = parts.devices
        self._refuse_work = refuse_work
        self._handed = Handed()
        self._endings = Endings(parts, self._handed)
        self._intake = Intake(parts, self._endings, on_done)
        self.completions = self._intake.completions
        self._follower = Follower(parts, self._endings, self._intake)
        self.starts = JobStarts(parts, self._handed, self._endings, refuse_work=refuse_work)
        room = room or Room(parts.settings.queue, parts.home.root)
        self.choice = JobChoice(parts, self.starts, room)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.outlook = Outlook(parts.state, parts.devices, self._tasks.keys())
        self._wake = asyncio.Event()
        self.paused = False
        self.gate_resume: Callable[[Peer, JobRow], Awaitable[None]] = _no_gate
        """Asked before a job goes on or begins anew; raises where it may not."""

    # --- asked for by clients ------------------------------------------------------------

    def add(
        self,
        change: Change,
        peer_account: str,
        verb: str,
        name: str,
        config: dict[str, Any],
        inputs: dict[str, ObjectRow],
        *,
        waits_for_source: bool = False,
        unwritten: dict[str, Any] | None = None,
        output: tuple[str, int] | None = None,
        priority: int = 0,
        job_id: str | None = None,
    ) -> JobRow:
        """Put a job into the queue, frozen as it is now. The caller has recorded it already.

        `unwritten` are settings that are content: they go to the worker in place of what `config` has
        for them, and are kept in memory only. `output` and `job_id` are as in `new_job`.
        """
        row = new_job(
            change,
            peer_account,
            verb,
            name,
            config,
            inputs,
            waits_for_source=waits_for_source,
            output=output,
            priority=priority,
            job_id=job_id,
        )
        if unwritten:
            self._handed.keep_unwritten(row.job_id, unwritten)
        self._wake.set()
        return row

    def deliver(self, delivery: Delivery) -> None:
        """Descriptors for a job that waits for them. Errors: Conflict, NotFound."""
        with self._state.change() as change:
            row = job_row(change, delivery.job_id)
            if row.state != JobState.WAITING_SOURCE:
                raise Conflict(f"the job is {row.state} and takes no source", where=row.job_id)
            if change.now - row.created_at > timedelta(seconds=SOURCE_WAIT_S):
                raise Conflict("its source comes too late", where=row.job_id, remedy="Start it again.")
            row.state = JobState.QUEUED
            announce(change, row)
        self._handed.deliver(delivery)
        self._wake.set()

    async def cancel(self, peer: Peer | None, job_id: str, final: JobState = JobState.CANCELLED) -> None:
        """Take a job out, or stop it: a run writes a checkpoint first. Never waits for the ledger."""
        with self._state.read() as session:
            row = session.get(JobRow, job_id)
        if row is None:
            raise NotFound("there is no job of that id", where=job_id, remedy="See `cloister status`.")
        if row.state not in PENDING:
            raise Conflict(f"the job is {row.state} already", where=job_id)
        self._endings.refuse_weaker(job_id, final)

        def keep(change: Change) -> None:
            row = job_row(change, job_id)
            if row.state in PENDING:
                row.stopping = stronger(JobState(row.stopping) if row.stopping else None, final)

        action = {JobState.PAUSED: "job.pause", JobState.QUEUED: "job.yield"}.get(final, "job.cancel")
        await self._recorder.record_taking_away(peer, action, job_id, alongside=keep)
        if job_id in self._tasks:
            self._endings.stop_as(job_id, final)
            try:
                await self._launcher.stop(job_id, self._limits.stop_grace_s)
            except NoAnswer as error:
                await self._abandon(job_id, error)
            except CloisterError:
                pass  # there is no sandbox yet, or none any more: whoever looks after the job ends it
            return
        with self._state.read() as session:  # it may have ended while the entry was made
            state = session.get_one(JobRow, job_id).state
        if state not in PENDING:
            raise Conflict(f"the job is {state} already", where=job_id)
        self._endings.stop_as(job_id, final)
        self._spawn(job_id, self._settle(job_id))
        await asyncio.wait([self._tasks[job_id]], timeout=STOPPED_S)

    async def pause(self, peer: Peer, job_id: str) -> None:
        """Stop a job at a checkpoint and let go of its device, until `resume`. Errors: NotFound, Conflict."""
        with self._state.read() as session:
            row = session.get(JobRow, job_id)
        if row is not None and row.verb not in RESUMABLE:
            raise Conflict(f"{row.verb} cannot pause", where=job_id, remedy="Wait for its end, or cancel it.")
        await self.cancel(peer, job_id, JobState.PAUSED)

    async def make_way(self) -> None:
        """Have the run of lowest priority, the youngest of those, write a checkpoint and go back into the queue."""
        with self._state.read() as session:
            rows = [session.get_one(JobRow, job_id) for job_id in self.running]
        able = [row for row in rows if row.verb in RESUMABLE and not self._endings.is_stopping(row.job_id)]
        if able:
            least = min(able, key=lambda row: (row.priority, -row.created_at.timestamp()))
            with contextlib.suppress(Conflict):
                await self.cancel(None, least.job_id, JobState.QUEUED)

    async def retry(self, peer: Peer, job_id: str) -> None:
        """Queue a job that ended without its result again, from its beginning. Errors: NotFound, Conflict."""
        await self.resume(peer, job_id, fresh=True)

    async def resume(self, peer: Peer, job_id: str, *, fresh: bool = False) -> None:
        """Queue a job that was cut off or paused again; a run goes on from its last checkpoint, unless `fresh`."""
        with self._state.read() as session:
            row = session.get(JobRow, job_id)
            if row is None:
                raise NotFound("there is no job of that id", where=job_id, remedy="See `cloister run list`.")
            refuse_shredded_job(session, row)
            refuse_resume(session, row)
        if row.verb not in RESUMABLE:
            raise Conflict(
                f"{row.verb} cannot resume", where=job_id, remedy="Start it again with its source."
            )
        self._refuse_work()
        await self.gate_resume(peer, row)
        await self._recorder.record(peer, "job.retry" if fresh else "job.resume", job_id)
        with self._state.change() as change:
            row = job_row(change, job_id)
            refuse_shredded_job(change.session, row)
            refuse_resume(change.session, row)
            row.state, row.resume, row.error, row.ended_at = JobState.QUEUED, not fresh, None, None
            row.stopping, row.asked_by = None, peer.uid
            row.attempts = 0  # how often it goes on by itself counts from when somebody last asked for it
            if fresh:
                row.progress, row.metrics = None, {}
                forget_points(change.session, job_id)
            announce(change, row)
        self._wake.set()

    @property
    def lacking(self) -> dict[str, str]:
        """What waiting jobs wait for besides their turn."""
        return self.choice.lacking

    @property
    def running(self) -> list[str]:
        """What has a sandbox, or is being taken in; not what waits to be taken in, or for its end to be kept."""
        return sorted(self._tasks.keys() - self._intake.held - self._endings.unkept)

    @property
    def known(self) -> list[str]:
        """Every job that this queue looks after now."""
        return sorted(self._tasks)

    async def ended(self, job_ids: Sequence[str]) -> None:
        """Wait until the queue looks after none of these any more."""
        while waiting := [self._tasks[job_id] for job_id in job_ids if job_id in self._tasks]:
            await asyncio.wait(waiting, timeout=0.5)

    async def drain(self) -> None:
        """Start nothing more and wait until nothing runs."""
        self.paused = True
        while running := self.running:
            await asyncio.wait([self._tasks[job_id] for job_id in running], timeout=0.5)

    async def cut(self, peer: Peer) -> None:
        """Stop what runs; runs keep their checkpoints and are `interrupted`."""
        self.paused = True
        for job_id in self.running:
            with contextlib.suppress(Conflict):
                await self.cancel(peer, job_id, JobState.INTERRUPTED)
        await self.drain()

    # --- the authority's own life ----------------------------------------------------------

    async def recover(self, sandboxes: dict[str, SandboxState]) -> None:
        """After a start: follow what still runs, stop what was being stopped, mark what was cut off."""
        with self._state.read() as session:
            rows = session.scalars(
                select(JobRow).where(JobRow.state.in_(("waiting-source", "queued", "running")))
            ).all()
        ends: list[asyncio.Task[None]] = []

        def end(job_id: str, ending: Coroutine[Any, Any, None]) -> None:
            self._spawn(job_id, ending)
            ends.append(self._tasks[job_id])

        for row in rows:
            if row.stopping is not None:
                self._endings.stop_as(row.job_id, JobState(row.stopping))
            goes_on = row.job_id in sandboxes or row.result
            if row.state == JobState.RUNNING and row.verb not in SHORT and goes_on:
                self._devices.keep(row.job_id, row.device)
            if row.state == JobState.RUNNING and row.job_id in sandboxes:
                self._spawn(row.job_id, self._adopt(row.job_id))
            elif row.state == JobState.RUNNING and row.result:
                self._spawn(row.job_id, self._intake.take_in(row.job_id, Result(values=row.result)))
            elif row.state == JobState.RUNNING:
                why = "its sandbox ended while the authority was away"
                end(row.job_id, self._endings.interrupt(row.job_id, why))
            elif row.stopping is not None:
                end(row.job_id, self._endings.stopped(row.job_id))
            elif row.state == JobState.WAITING_SOURCE or row.verb in LIGHT:
                end(row.job_id, self._endings.interrupt(row.job_id, SOURCE_LOST))
            elif row.verb in CONTENT:
                end(row.job_id, self._endings.interrupt(row.job_id, CONTENT_LOST))
        if ends:  # an authority starts also where the state takes nothing just now
            await asyncio.wait(ends, timeout=STOPPED_S)

    async def run(self) -> None:
        """Start queued jobs as slots come free, for ever."""
        while True:
            await self._parts.seal.opened.wait()
            try:
                await self._expire()
                if await self._can_start():
                    self._start_what_fits()
            except Exception as error:  # nothing would ever start again
                log.error("queue.error", cause=place(error))
            self._wake.clear()
            with contextlib.suppress(TimeoutError):  # not wait_for, which may swallow a cancellation
                async with asyncio.timeout(1.0):
                    await self._wake.wait()

    async def _expire(self) -> None:
        """End the jobs whose clients never handed over a source."""
        since = self._state.now() - timedelta(seconds=SOURCE_WAIT_S)
        with self._state.read() as session:
            waiting = session.scalars(
                select(JobRow.job_id).where(
                    JobRow.state == JobState.WAITING_SOURCE, JobRow.created_at < since
                )
            ).all()
        for job_id in waiting:
            await self._endings.interrupt(job_id, "what it waits for was never handed over")

    async def _can_start(self) -> bool:
        """Whether something waits and nothing that it needs is away; until then it stays queued."""
        with self._state.read() as session:
            if session.scalars(select(JobRow.job_id).where(JobRow.state == JobState.QUEUED)).first() is None:
                return False
        try:
            self._refuse_work()
            async with asyncio.timeout(5):
                await self._launcher.ping()
        except (CloisterError, TimeoutError):
            return False
        return True

    async def stop(self) -> None:
        """Let go of what runs without touching it: the next authority adopts it."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._handed.close()

    def _start_what_fits(self) -> None:
        if self.paused or self._parts.seal.locked:
            return
        for one in self.choice.next(self._tasks.keys()):
            if one.never is not None:
                self._spawn(one.job_id, self._never(one))
            else:
                self._spawn(one.job_id, self._start_and_follow(one.job_id, one.device))

    async def _never(self, one: Chosen) -> None:
        raise JobFailed(f"the job {one.never}", where=one.job_id, remedy=one.remedy)

    def _spawn(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                try:
                    await work
                except CloisterError as error:
                    log.warning("job.failed", job=job_id, code=error.code)
                    await self._give_up(job_id, error)
                except Exception as error:
                    log.error("job.error", job=job_id, cause=place(error))
                    await self._give_up(
                        job_id, JobFailed("the authority failed; its log says where", where=job_id)
                    )
                await self._settle(job_id)
            finally:
                self._tasks.pop(job_id, None)
                self._endings.forget(job_id)
                self._devices.release(job_id)
                self._wake.set()

        self._tasks[job_id] = asyncio.create_task(guarded())

    # --- one job -----------------------------------------------------------------------------

    async def _start_and_follow(self, job_id: str, device: str | None) -> None:
        if await self.starts.start(job_id, device):
            await self._follower.follow(job_id)

    async def _adopt(self, job_id: str) -> None:
        """Follow a sandbox that the authority before this one has started."""
        if self._endings.is_stopping(job_id):
            with contextlib.suppress(NotFound):
                await self._launcher.stop(job_id, self._limits.stop_grace_s)
        await self._follower.follow(job_id)

    async def _settle(self, job_id: str) -> None:
        """Stop what is still to be stopped: somebody asked for it as the job went back into the queue."""
        if self._endings.is_stopping(job_id) and self._endings.is_pending(job_id):
            await self._endings.stopped(job_id)

    async def _give_up(self, job_id: str, error: CloisterError) -> None:
        """End a job that cannot be started, followed or taken in, its sandbox first. One that was being stopped ends
        as whoever stops it wants it, unless its sandbox may run on."""
        if not isinstance(error, NoAnswer):
            with contextlib.suppress(CloisterError):
                await self._launcher.stop(job_id, self._limits.stop_grace_s)
                await self._launcher.forget(job_id)
            if self._endings.is_stopping(job_id):
                await self._endings.stopped(job_id)
                return
        await self._endings.fail(job_id, records.problem(error))

    async def _abandon(self, job_id: str, error: NoAnswer) -> None:
        """End a job whose sandbox nobody can end, and that may say nothing any more."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._endings.is_pending(job_id):
            await self._endings.fail(job_id, records.problem(error))


async def _no_gate(peer: Peer, row: JobRow) -> None:
    """Nothing stands in the way."""
