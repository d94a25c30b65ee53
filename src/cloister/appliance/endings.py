"""How a job ends without its result: failed, cut off, or as whoever stops it wants it.

Each ending is entered, then kept. A job that can go on from a checkpoint and was cut off by no one's wish goes
back into the queue instead, a few times. It starts nothing and follows nothing.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

import structlog

from cloister.api import JobState, Problem
from cloister.appliance.handed import Handed
from cloister.appliance.jobs import OF_RUNS, PENDING, RESUMABLE, SHORT, announce, job_row
from cloister.appliance.parts import Parts
from cloister.appliance.state import JobRow
from cloister.appliance.store import Change
from cloister.errors import Conflict, InvalidInput, OutOfSpace

log = structlog.get_logger()

RETRY_S = 1.0
"""The pause before an ending that the state could not take is kept again."""
_WISHES = (JobState.QUEUED, JobState.INTERRUPTED, JobState.PAUSED, JobState.CANCELLED)
"""How a job may be stopped, what gives way first: making way for an engine, a lock, a pause, a cancel."""


def stronger(before: JobState | None, wish: JobState) -> JobState:
    """Which of two wishes to stop one job counts."""
    return wish if before is None else max(before, wish, key=_WISHES.index)


class Endings:
    """Ends jobs, and knows which of them are being stopped."""

    def __init__(self, parts: Parts, handed: Handed) -> None:
        self._home = parts.home
        self._state = parts.state
        self._recorder = parts.recorder
        self._resume_limit = parts.settings.queue.resume_limit
        self._handed = handed
        self._stopping: dict[str, JobState] = {}
        self.unkept: set[str] = set()
        """Jobs whose sandboxes have ended, and whose ends the state does not take just now."""

    def is_stopping(self, job_id: str) -> bool:
        return job_id in self._stopping

    def stop_as(self, job_id: str, final: JobState) -> None:
        """From now on the job is being stopped, to end in that state; or in the one that somebody else wants it to,
        where that is the stronger wish."""
        self._stopping[job_id] = stronger(self._stopping.get(job_id), final)

    def refuse_weaker(self, job_id: str, final: JobState) -> None:
        """Errors: Conflict where it is being stopped already, and more than this would."""
        before = self._stopping.get(job_id)
        if before is not None and stronger(before, final) != final:
            raise Conflict(f"the job is being stopped, to be {before}", where=job_id)

    def forget(self, job_id: str) -> None:
        self._stopping.pop(job_id, None)

    def is_pending(self, job_id: str) -> bool:
        with self._state.read() as session:
            return session.get_one(JobRow, job_id).state in PENDING

    async def stopped(self, job_id: str) -> None:
        """End a job as whoever stopped it wants it."""
        final = self._stopping.pop(job_id)
        if final == JobState.INTERRUPTED:
            await self._cut_off(job_id, "the vault was locked")
        elif final == JobState.QUEUED:
            await self._again(job_id, counts=False)
        else:
            await self.end(job_id, final)

    async def fail(self, job_id: str, problem: Problem) -> None:
        with self._state.read() as session:
            row = session.get_one(JobRow, job_id)
        if problem.remedy is None:
            problem = problem.model_copy(update={"remedy": _tried_again(row, problem.code)})
        await self._recorder.record_taking_away(
            None, "job.failed", job_id, reason=problem.code, name=row.name, verb=row.verb
        )
        await self.end(job_id, JobState.FAILED, problem)

    async def refuse(self, job_id: str, problem: Problem) -> None:
        """A job that has waited may not start any more. It ends, and who may can resume it."""
        if job_id in self._stopping:
            await self.stopped(job_id)
            return
        with self._state.read() as session:
            row = session.get_one(JobRow, job_id)
        await self._recorder.record_taking_away(
            None,
            "job.refused",
            job_id,
            *sorted(ref["object_id"] for ref in row.inputs.values()),
            decision="deny",
            reason=problem.detail,
            code=problem.code,
            name=row.name,
        )
        if job_id in self._stopping:
            await self.stopped(job_id)
            return
        await self.end(job_id, JobState.INTERRUPTED, problem)

    async def interrupt(self, job_id: str, why: str) -> None:
        """A job was cut off: it goes back into the queue, or ends. One that is being stopped ends as `stopped` says."""
        if job_id in self._stopping:
            await self.stopped(job_id)
            return
        with self._state.read() as session:
            row = session.get_one(JobRow, job_id)
        if row.verb not in RESUMABLE or row.attempts > self._resume_limit:
            await self._cut_off(job_id, why)
            return
        await self._recorder.record_taking_away(
            None,
            "job.interrupted",
            job_id,
            reason=why,
            name=row.name,
            verb=row.verb,
            goes_on=True,
            attempt=row.attempts,
        )
        if job_id in self._stopping:  # somebody stopped it while this was entered
            await self.stopped(job_id)
            return
        await self._again(job_id)

    async def _again(self, job_id: str, *, counts: bool = True) -> None:
        """Back into the queue, to go on from a checkpoint. Making way for an engine is no failed attempt."""

        def queue(change: Change) -> None:
            row = job_row(change, job_id)
            row.state, row.resume, row.stopping = JobState.QUEUED, True, None
            row.attempts = max(0, row.attempts - (not counts))
            announce(change, row)

        await self._keep(job_id, queue)

    async def _cut_off(self, job_id: str, why: str) -> None:
        with self._state.read() as session:
            row = session.get_one(JobRow, job_id)
        await self._recorder.record_taking_away(
            None, "job.interrupted", job_id, reason=why, name=row.name, verb=row.verb
        )
        noun = "run" if row.verb in OF_RUNS else "job"
        remedy = f"Run `cloister {noun} resume {job_id}`." if row.verb in RESUMABLE else "Start it again."
        times = f" {row.attempts} times, the last time" if row.attempts > max(1, self._resume_limit) else ""
        await self.end(
            job_id,
            JobState.INTERRUPTED,
            Problem(
                title="Interrupted",
                status=500,
                code="interrupted",
                detail=f"the job was cut off{times}: {why}",
                remedy=remedy,
            ),
        )

    async def end(self, job_id: str, final: JobState, problem: Problem | None = None) -> None:
        """Keep its final state, and let go of what it held. The caller has entered it."""
        verb = ""

        def keep(change: Change) -> None:
            nonlocal verb
            row = job_row(change, job_id)
            row.state, row.ended_at, row.stopping = final, change.now, None
            row.error = problem.model_dump() if problem else None
            verb = row.verb
            announce(change, row)

        await self._keep(job_id, keep)
        self._handed.drop(job_id)
        if verb in SHORT:
            shutil.rmtree(self._home.output_folder(job_id).parent, ignore_errors=True)

    async def _keep(self, job_id: str, ending: Callable[[Change], None]) -> None:
        """Until the state takes it: what was entered is what becomes of the job, and nothing else meanwhile."""
        try:
            while True:
                try:
                    with self._state.change() as change:
                        ending(change)
                    return
                except OutOfSpace as error:
                    self.unkept.add(job_id)
                    log.warning("job.ending-unkept", job=job_id, code=error.code)
                    await asyncio.sleep(RETRY_S)
        finally:
            self.unkept.discard(job_id)


def _tried_again(row: JobRow, code: str) -> str:
    """What to do about a failure that says nothing of it. What was refused for what it is would be so again."""
    if row.verb in RESUMABLE:
        again = (
            f"cloister run retry {row.name}" if row.verb in OF_RUNS else f"cloister job retry {row.job_id}"
        )
        return f"`{again}` begins it anew; where it fails again, see `cloister doctor`."
    if code == InvalidInput.code:
        return "Mend what it names, and give the command again."
    return "Give the command again; where it fails again, see `cloister doctor`."
