"""The job queue: what was asked for, in order, each in a sandbox of its own, each to one final state.

A job lives in the state database, so it survives a restart: a sandbox that still runs is followed on
from the last line that was taken in; one that is gone leaves its job `interrupted`, to be resumed.
The queue names objects and hands out keys. It sees events, never rows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select

from cloister.api import (
    Failure,
    Grant,
    JobDocument,
    JobState,
    Metrics,
    Mount,
    Notice,
    ObjectKind,
    Problem,
    Progress,
    Result,
    SandboxSpec,
    SandboxState,
    WorkerEvent,
)
from cloister.appliance import records
from cloister.appliance.catalogue import Catalogue
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal
from cloister.appliance.side import Delivery
from cloister.appliance.state import JobRow, ObjectRow
from cloister.appliance.store import Change, StateStore
from cloister.appliance.tombstones import refuse_shredded_job
from cloister.errors import (
    CloisterError,
    Conflict,
    JobFailed,
    LedgerUnavailable,
    Locked,
    NotFound,
    OutOfSpace,
    Unavailable,
)
from cloister.home import Home
from cloister.launcher.client import LauncherClient
from cloister.logs import place
from cloister.policy import Settings

log = structlog.get_logger()

OUTPUT_KIND = {
    "import": ObjectKind.DATASET,
    "base": ObjectKind.BASE,
    "train": ObjectKind.ADAPTER,
    "evaluate": ObjectKind.EVALUATION,
    "merge": ObjectKind.MODEL,
    "forget": ObjectKind.DATASET,
}
LIGHT = frozenset({"import", "base"})
SHORT = LIGHT | {"forget"}
"""What takes a light slot."""
RESUMABLE = frozenset({"train", "evaluate", "merge"})
CUT_OFF = frozenset({"interrupted", "job-failed"})
"""What the launcher says of a program that ended without a word of its own."""
PENDING = (JobState.WAITING_SOURCE, JobState.QUEUED, JobState.RUNNING)
SOURCE_LOST = "the descriptors of its source were lost with the authority"
CONTENT_LOST = "what it was to look for was lost with the authority, which keeps it in memory only"
SOURCE_WAIT_S = 120.0
"""How long a job waits for a client that has asked for it and not handed over its source."""
RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Pauses of a finished job whose result cannot be entered yet."""
HELD_UP = (Locked, LedgerUnavailable, OutOfSpace)
"""What passes: a job waits for its end."""
_EVENT: TypeAdapter[WorkerEvent] = TypeAdapter(WorkerEvent)

Finished = Callable[[Change, JobRow, ObjectRow], None]


class Queue:
    """Starts jobs as slots allow, follows them, and takes in what they made."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        state: StateStore,
        seal: Seal,
        recorder: Recorder,
        catalogue: Catalogue,
        launcher: LauncherClient,
        *,
        refuse_work: Callable[[], None],
        on_done: Finished,
    ) -> None:
        self._home = home
        self._settings = settings
        self._state = state
        self._seal = seal
        self._recorder = recorder
        self._catalogue = catalogue
        self._launcher = launcher
        self._refuse_work = refuse_work
        self._on_done = on_done
        self._deliveries: dict[str, Delivery] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: dict[str, JobState] = {}
        self._held: set[str] = set()
        self._unwritten: dict[str, dict[str, Any]] = {}
        self._wake = asyncio.Event()
        self.paused = False

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
    ) -> JobRow:
        """Put a job into the queue, frozen as it is now. The caller has recorded it already.

        `unwritten` are settings that are content: they go to the worker in place of what `config` has
        for them, and are kept in memory only. `output` is the object version that it makes, where that is
        not the first one of a new object.
        """
        row = JobRow(
            job_id=new_id("job"),
            verb=verb,
            state=JobState.WAITING_SOURCE if waits_for_source else JobState.QUEUED,
            subject=output[0] if output else new_id(OUTPUT_KIND[verb]),
            output_version=output[1] if output else 1,
            name=name,
            config=config,
            inputs={
                role: {
                    "object_id": row.object_id,
                    "version": row.version,
                    "manifest_sha256": row.manifest_sha256,
                }
                for role, row in inputs.items()
            },
            requested_by=peer_account,
            created_at=change.now,
            attempts=0,
            resume=False,
            last_event=0,
            metrics={},
            result={},
        )
        change.session.add(row)
        change.session.flush()
        if unwritten:
            self._unwritten[row.job_id] = unwritten
        self._announce(change, row)
        self._wake.set()
        return row

    def deliver(self, delivery: Delivery) -> None:
        """Descriptors for a job that waits for them. Errors: Conflict, NotFound."""
        with self._state.change() as change:
            row = self._row(change, delivery.job_id)
            if row.state != JobState.WAITING_SOURCE:
                raise Conflict(f"the job is {row.state} and takes no source", where=row.job_id)
            if change.now - row.created_at > timedelta(seconds=SOURCE_WAIT_S):
                raise Conflict("its source comes too late", where=row.job_id, remedy="Start it again.")
            row.state = JobState.QUEUED
            self._announce(change, row)
        self._deliveries[delivery.job_id] = delivery
        self._wake.set()

    async def cancel(self, peer: Peer | None, job_id: str, final: JobState = JobState.CANCELLED) -> None:
        """Take a job out, or stop it: a run writes a checkpoint first. Never waits for the ledger."""
        with self._state.read() as session:
            row = session.get(JobRow, job_id)
        if row is None:
            raise NotFound("there is no job of that id", where=job_id, remedy="See `cloister status`.")
        if row.state not in PENDING:
            raise Conflict(f"the job is {row.state} already", where=job_id)
        await self._recorder.record_taking_away(peer, "job.cancel", job_id)
        if job_id in self._tasks:
            self._cancelled[job_id] = final
            with contextlib.suppress(CloisterError):
                await self._launcher.stop(job_id, self._settings.queue.stop_grace_s)
            return
        with self._state.read() as session:  # it may have ended while the entry was made
            state = session.get_one(JobRow, job_id).state
        if state not in PENDING:
            raise Conflict(f"the job is {state} already", where=job_id)
        self._end(job_id, final)

    async def resume(self, peer: Peer, job_id: str) -> None:
        """Queue a job that was cut off again; a run goes on from its last checkpoint."""
        with self._state.read() as session:
            row = session.get(JobRow, job_id)
            if row is None:
                raise NotFound("there is no job of that id", where=job_id, remedy="See `cloister run list`.")
            refuse_shredded_job(session, row)
        self._refuse_resume(row)
        if row.verb not in RESUMABLE:
            raise Conflict(
                f"{row.verb} cannot resume", where=job_id, remedy="Start it again with its source."
            )
        self._refuse_work()
        await self._recorder.record(peer, "job.resume", job_id)
        with self._state.change() as change:
            row = self._row(change, job_id)
            refuse_shredded_job(change.session, row)
            self._refuse_resume(row)
            row.state, row.resume, row.error, row.ended_at = JobState.QUEUED, True, None, None
            self._announce(change, row)
        self._wake.set()

    @staticmethod
    def _refuse_resume(row: JobRow) -> None:
        if row.state not in (JobState.INTERRUPTED, JobState.CANCELLED, JobState.FAILED):
            raise Conflict(
                f"the job is {row.state}; only one that ended without its result resumes", where=row.job_id
            )

    def counts(self) -> dict[str, int]:
        with self._state.read() as session:
            states = session.scalars(select(JobRow.state)).all()
        return {state: states.count(state) for state in JobState if state in states}

    @property
    def running(self) -> list[str]:
        """What has a sandbox, or is being taken in; not what waits to be taken in."""
        return sorted(self._tasks.keys() - self._held)

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
        """After a start: follow what still runs, mark what was cut off."""
        with self._state.read() as session:
            rows = session.scalars(
                select(JobRow).where(JobRow.state.in_(("waiting-source", "queued", "running")))
            ).all()
        for row in rows:
            if row.state == JobState.RUNNING and row.job_id in sandboxes:
                self._spawn(row.job_id, self._follow(row.job_id))
            elif row.state == JobState.RUNNING and row.result:
                self._spawn(row.job_id, self._take_in(row.job_id, Result(values=row.result)))
            elif row.state == JobState.RUNNING:
                await self._interrupt(row.job_id, "its sandbox ended while the authority was away")
            elif row.state == JobState.WAITING_SOURCE or row.verb in LIGHT:
                await self._interrupt(row.job_id, SOURCE_LOST)
            elif row.verb in SHORT:
                await self._interrupt(row.job_id, CONTENT_LOST)

    async def run(self) -> None:
        """Start queued jobs as slots come free, for ever."""
        while True:
            await self._seal.opened.wait()
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
            await self._interrupt(job_id, "its source was never handed over")

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
        for delivery in self._deliveries.values():
            delivery.close()

    def _start_what_fits(self) -> None:
        if self.paused or self._seal.locked:
            return
        with self._state.read() as session:
            queued = session.scalars(
                select(JobRow).where(JobRow.state == JobState.QUEUED).order_by(JobRow.created_at)
            ).all()
            verbs = {
                job_id: row.verb for job_id in self._tasks if (row := session.get(JobRow, job_id)) is not None
            }
        light = sum(verb in SHORT for verb in verbs.values())
        heavy = len(verbs) - light
        for row in queued:
            if row.job_id in self._tasks:
                continue
            if row.verb in SHORT and light < self._settings.queue.light_slots:
                light += 1
            elif row.verb not in SHORT and heavy < self._settings.queue.heavy_slots:
                heavy += 1
            else:
                continue
            self._spawn(row.job_id, self._start_and_follow(row.job_id))

    def _spawn(self, job_id: str, work: Any) -> None:
        async def guarded() -> None:
            try:
                await work
            except CloisterError as error:
                log.warning("job.failed", job=job_id, code=error.code)
                await self._give_up(job_id, error)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.error("job.error", job=job_id, cause=place(error))
                await self._give_up(
                    job_id, JobFailed("the authority failed; its log says where", where=job_id)
                )
            finally:
                self._tasks.pop(job_id, None)
                self._cancelled.pop(job_id, None)
                self._wake.set()

        self._tasks[job_id] = asyncio.create_task(guarded())

    # --- one job -----------------------------------------------------------------------------

    async def _start_and_follow(self, job_id: str) -> None:
        delivery = self._deliveries.pop(job_id, None)
        try:
            self._refuse_work()
            with self._state.read() as session:
                row = session.get_one(JobRow, job_id)
            if row.verb in LIGHT and delivery is None:
                raise JobFailed(SOURCE_LOST, where=job_id, remedy="Start it again.")
            if row.verb in SHORT - LIGHT and job_id not in self._unwritten:
                raise JobFailed(CONTENT_LOST, where=job_id, remedy="Start it again.")
            roles = list(delivery.descriptors) if delivery else []
            document, spec = self._prepare(row, roles)
            try:
                await self._recorder.record(
                    None,
                    f"job.{row.verb}",
                    job_id,
                    row.subject or "",
                    *sorted(ref["object_id"] for ref in row.inputs.values()),
                )
            except HELD_UP:
                if delivery is not None or job_id in self._cancelled:
                    raise
                return  # it stays queued
            if job_id in self._cancelled:
                await self._stopped(job_id)
                return
            with self._state.change() as change:
                row = self._row(change, job_id)
                row.state, row.started_at, row.last_event = JobState.RUNNING, change.now, 0
                row.attempts, row.result = row.attempts + 1, {}
                self._announce(change, row)
            memory = in_memory(document)
            try:
                extra = [delivery.descriptors[role] for role in roles] if delivery else []
                await self._launcher.forget(job_id)
                await self._launcher.start(spec, [memory, *extra])
                self._unwritten.pop(job_id, None)
                if job_id in self._cancelled:
                    await self._launcher.stop(job_id, self._settings.queue.stop_grace_s)
            finally:
                os.close(memory)
        finally:
            if delivery is not None:
                delivery.close()
        await self._follow(job_id)

    def _prepare(self, row: JobRow, roles: list[str]) -> tuple[JobDocument, SandboxSpec]:
        """The job document, with the keys of just its objects, and the sandbox around it."""
        vault = self._seal.vault
        kind = OUTPUT_KIND[row.verb]
        subject = row.subject or ""
        output = self._home.output_folder(row.job_id)
        if not row.resume:
            shutil.rmtree(output.parent, ignore_errors=True)
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        inputs: dict[str, Grant] = {}
        mounts = [Mount(source=str(output), inside="/out", writable=True)]
        isolated = self._settings.sandbox == "required"
        with self._state.read() as session:
            for role, reference in row.inputs.items():
                stored = session.get_one(ObjectRow, (reference["object_id"], reference["version"]))
                sealed = stored.kind != ObjectKind.BASE
                inputs[role] = Grant(
                    object_id=stored.object_id,
                    kind=ObjectKind(stored.kind),
                    version=stored.version,
                    path=f"/in/{role}" if isolated else str(self._catalogue.folder(stored)),
                    key=_b64(vault.data_key(stored.object_id, stored.version)) if sealed else None,
                    manifest_sha256=stored.manifest_sha256,
                )
                mounts.append(Mount(source=str(self._catalogue.folder(stored)), inside=f"/in/{role}"))
        key = None
        if kind != ObjectKind.BASE:
            try:
                key = _b64(vault.data_key(subject, row.output_version))  # an attempt before this one made it
            except NotFound:
                key = _b64(vault.new_data_key(subject, row.output_version))
        document = JobDocument.model_validate(
            {
                "job_id": row.job_id,
                "verb": row.verb,
                "config": {**row.config, **self._unwritten.get(row.job_id, {})},
                "inputs": inputs,
                "output": Grant(
                    object_id=subject,
                    kind=kind,
                    version=row.output_version,
                    path="/out" if isolated else str(output),
                    key=key,
                ),
                "descriptors": {role: 3 + index for index, role in enumerate(roles)},
                "resume": row.resume,
                "threads": self._settings.queue.threads,
            }
        )
        spec = SandboxSpec(
            sandbox_id=row.job_id,
            program="worker",
            mounts=tuple(mounts),
            tmp_mib=self._settings.sandboxes.tmp_mib,
            shm_mib=self._settings.sandboxes.shm_mib,
            descriptors=tuple(roles),
            threads=self._settings.queue.threads,
        )
        return document, spec

    async def _follow(self, job_id: str) -> None:
        """Take in what the sandbox says, from where it was left, to its end."""
        with self._state.read() as session:
            after = session.get_one(JobRow, job_id).last_event
        result: Result | None = None
        failure: Failure | None = None
        exit_code: int | None = None
        try:
            async for event in self._launcher.follow(job_id, after):
                if event.exit_code is not None:
                    exit_code = event.exit_code
                    break
                said = parse_event(event.line or "")
                if isinstance(said, Result):
                    result = said
                elif isinstance(said, Failure):
                    failure = said
                elif said is not None:
                    with contextlib.suppress(OutOfSpace):  # progress that cannot be kept costs no work
                        self._take(job_id, event.number, said)
        except (Unavailable, NotFound):
            await self._interrupt(job_id, "the launcher stopped, and the sandbox with it")
            return
        if result is not None and exit_code == 0:
            await self._take_in(job_id, result)
        elif job_id in self._cancelled:
            await self._stopped(job_id)
        elif exit_code is None or (_killed(exit_code) and (failure is None or failure.code in CUT_OFF)):
            await self._interrupt(job_id, "its process was killed")
        elif failure is not None and failure.code != "interrupted":
            await self._fail(job_id, _problem(failure))
        else:
            await self._interrupt(job_id, "it was stopped")
        with contextlib.suppress(CloisterError):
            await self._launcher.forget(job_id)

    def _take(self, job_id: str, number: int, said: Progress | Metrics | Notice) -> None:
        with self._state.change() as change:
            row = self._row(change, job_id)
            row.last_event = number
            if isinstance(said, Progress):
                row.progress = said.model_dump()
            elif isinstance(said, Metrics):
                row.metrics = {**row.metrics, "step": float(said.step), **said.values}
            change.event(f"job.{said.event}", job_id, **said.model_dump(exclude={"event"}))

    async def _take_in(self, job_id: str, result: Result) -> None:
        """Complete a job; while the vault is locked or the ledger refuses, wait. Its result is kept."""
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            self._row(change, job_id).result = result.values
        attempt = 0
        while True:
            await self._hold(job_id, self._seal.opened)
            try:
                if self._seal.locked:
                    await self._stopped(job_id)
                else:
                    await self._complete(job_id, result)
                return
            except HELD_UP as error:
                log.warning("job.held-up", job=job_id, code=error.code)
                await self._hold(job_id, asyncio.Event(), RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
                if job_id in self._cancelled:
                    await self._stopped(job_id)
                    return

    async def _hold(self, job_id: str, until: asyncio.Event, at_most_s: float = math.inf) -> None:
        """Wait for that event, for so long, or until the job is cancelled."""
        end = asyncio.get_running_loop().time() + at_most_s
        self._held.add(job_id)
        try:
            while not until.is_set() and job_id not in self._cancelled:
                left = end - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, 0.5)):
                        await until.wait()
        finally:
            self._held.discard(job_id)

    async def _complete(self, job_id: str, result: Result) -> None:
        with self._state.read() as session:
            row = session.get_one(JobRow, job_id)
        output = self._home.output_folder(job_id)
        index = await self._recorder.record(None, "job.done", job_id, row.subject or "")
        stored = await self._catalogue.take_in(
            row,
            output,
            kind=OUTPUT_KIND[row.verb],
            ledger_index=index,
            details=result.values,
        )
        with self._state.change() as change:
            row = self._row(change, job_id)
            row.state, row.ended_at, row.result, row.error = JobState.DONE, change.now, result.values, None
            change.session.add(stored)
            change.session.flush()
            self._announce(change, row)
            change.event(f"{stored.kind}.registered", stored.object_id, name=stored.name)
            self._on_done(change, row, stored)
        await asyncio.to_thread(shutil.rmtree, output.parent, ignore_errors=True)

    async def _fail(self, job_id: str, problem: Problem) -> None:
        await self._recorder.record_taking_away(None, "job.failed", job_id, reason=problem.code)
        self._end(job_id, JobState.FAILED, problem)

    async def _give_up(self, job_id: str, error: CloisterError) -> None:
        """End a job that cannot be followed or taken in, its sandbox first."""
        with contextlib.suppress(CloisterError):
            await self._launcher.stop(job_id, self._settings.queue.stop_grace_s)
            await self._launcher.forget(job_id)
        await self._fail(job_id, records.problem(error))

    async def _interrupt(self, job_id: str, why: str) -> None:
        if job_id in self._cancelled:
            await self._stopped(job_id)
            return
        await self._recorder.record_taking_away(None, "job.interrupted", job_id, reason=why)
        with self._state.read() as session:
            verb = session.get_one(JobRow, job_id).verb
        remedy = f"Run `cloister run resume {job_id}`." if verb in RESUMABLE else "Start it again."
        self._end(
            job_id,
            JobState.INTERRUPTED,
            Problem(
                title="Interrupted",
                status=500,
                code="interrupted",
                detail=f"the job was cut off: {why}",
                remedy=remedy,
            ),
        )

    async def _stopped(self, job_id: str) -> None:
        """End a job as whoever stopped it wants it."""
        final = self._cancelled.pop(job_id)
        if final == JobState.INTERRUPTED:
            await self._interrupt(job_id, "the vault was locked")
        else:
            self._end(job_id, final)

    def _end(self, job_id: str, final: JobState, problem: Problem | None = None) -> None:
        with self._state.change() as change:
            row = self._row(change, job_id)
            row.state, row.ended_at = final, change.now
            row.error = problem.model_dump() if problem else None
            verb = row.verb
            self._announce(change, row)
        self._unwritten.pop(job_id, None)
        delivery = self._deliveries.pop(job_id, None)
        if delivery is not None:
            delivery.close()
        if verb in SHORT:
            shutil.rmtree(self._home.output_folder(job_id).parent, ignore_errors=True)

    def _row(self, change: Change, job_id: str) -> JobRow:
        row = change.session.get(JobRow, job_id)
        if row is None:
            raise NotFound("there is no job of that id", where=job_id)
        return row

    @staticmethod
    def _announce(change: Change, row: JobRow) -> None:
        change.event("job.state", row.job_id, state=row.state, verb=row.verb, name=row.name)


def _killed(exit_code: int) -> bool:
    """By a signal, seen directly or through bubblewrap, which adds 128 to it."""
    return exit_code < 0 or exit_code > 128


def _problem(failure: Failure) -> Problem:
    return Problem(
        title=failure.code.replace("-", " ").capitalize(),
        status=422,
        code=failure.code,
        detail=failure.message,
        where=failure.where,
        remedy=failure.remedy,
        values=failure.values,
    )


def parse_event(line: str) -> WorkerEvent | None:
    """One line of a worker; None for what does not fit the protocol, which is dropped unread."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError:
        log.warning("worker.unreadable-line", length=len(line))
        return None


def _b64(key: bytes) -> str:
    return base64.b64encode(key).decode()


def in_memory(document: JobDocument) -> int:
    """A descriptor of an anonymous file in memory that holds the document, at its start."""
    memory = os.memfd_create("job", os.MFD_CLOEXEC)
    os.write(memory, document.model_dump_json().encode())
    os.lseek(memory, 0, os.SEEK_SET)
    return memory
