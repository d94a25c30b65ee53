"""The start of one job: asked for again, entered, written into the state, and only then given to the launcher.

It hands out keys and the descriptors of clients; it does not choose what starts, and follows nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable

from cloister.api import JobState
from cloister.appliance import records
from cloister.appliance.approvals import Pass
from cloister.appliance.documents import in_memory, worker_documents
from cloister.appliance.endings import Endings
from cloister.appliance.handed import Handed
from cloister.appliance.intake import HELD_UP
from cloister.appliance.jobs import CONTENT, LIGHT, announce, job_row, places_of
from cloister.appliance.parts import Parts
from cloister.appliance.state import JobRow
from cloister.errors import (
    CloisterError,
    JobFailed,
    NotFound,
    OutOfSpace,
    SandboxUnavailable,
    Unavailable,
)
from cloister.launcher.client import NoAnswer

SOURCE_LOST = "the descriptors that were handed over for it were lost with the authority"
PASSING = (*HELD_UP, Unavailable)
"""What keeps a job from starting and passes by itself: it is no failure of the job's."""
PUT_OFF_S = 5.0
"""So long what could not be found out before a job's start is not asked again; others may start meanwhile."""
CONTENT_LOST = "what it was to look for was lost with the authority, which keeps it in memory only"


class JobStarts:
    """Starts jobs, one call each."""

    def __init__(
        self, parts: Parts, handed: Handed, endings: Endings, *, refuse_work: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._state = parts.state
        self._recorder = parts.recorder
        self._launcher = parts.launcher
        self._limits = parts.settings.queue
        self._handed = handed
        self._endings = endings
        self._refuse_work = refuse_work
        self.gate: Callable[[JobRow], Awaitable[Pass]] = _pass
        """Asked before a job that has waited starts; raises where it may not any more."""
        self._put_off: dict[str, tuple[float, str]] = {}

    def put_off(self, job_id: str) -> str | None:
        """What a queued job waits for that its start has just met; None where it may be tried."""
        until, why = self._put_off.get(job_id, (0.0, ""))
        return why if time.monotonic() < until else None

    async def _stays(self, job_id: str, error: CloisterError) -> bool:
        """It stays queued, and is tried again after a while; unless somebody is stopping it. False in either case."""
        if self._endings.is_stopping(job_id):
            await self._endings.stopped(job_id)
            return False
        self._wait(job_id, error.message)
        return False

    def _wait(self, job_id: str, why: str) -> None:
        """It is not tried again for a while."""
        now = time.monotonic()
        self._put_off = {one: told for one, told in self._put_off.items() if told[0] > now}
        self._put_off[job_id] = (now + PUT_OFF_S, why)

    async def start(self, job_id: str, device: str | None) -> bool:
        """Build a job's sandbox, after its entry. False where it ended, or stays queued, before it had one.

        Errors: JobFailed where what was handed over for it is gone; those of the launcher.
        """
        delivery = self._handed.take_delivery(job_id)
        try:
            try:
                self._refuse_work()
            except PASSING as error:
                if delivery is not None:
                    raise
                return await self._stays(job_id, error)
            with self._state.read() as session:
                row = session.get_one(JobRow, job_id)
            if row.verb in LIGHT and delivery is None:
                raise JobFailed(SOURCE_LOST, where=job_id, remedy="Start it again.")
            roles = list(delivery.descriptors) if delivery else []
            unwritten = self._handed.take_unwritten(job_id)
            if row.verb in CONTENT and not unwritten:
                raise JobFailed(CONTENT_LOST, where=job_id, remedy="Start it again.")
            try:
                passed = await self.gate(row)
            except Unavailable as error:  # it cannot be found out now, which is no refusal
                if delivery is not None:
                    raise
                self._handed.keep_unwritten(job_id, unwritten)
                return await self._stays(job_id, error)
            except CloisterError as error:
                await self._endings.refuse(job_id, records.problem(error))
                return False
            row.device = device
            try:
                document, spec = worker_documents(self._parts, row, roles, unwritten)
                await self._recorder.record(
                    None,
                    f"job.{row.verb}",
                    job_id,
                    *([row.subject] if row.subject else []),
                    *sorted(ref["object_id"] for ref in row.inputs.values()),
                    **({"devices": places} if (places := places_of(row)) > 1 else {}),
                    **passed.returned,
                )
            except HELD_UP as error:
                if delivery is not None:
                    raise
                self._handed.keep_unwritten(job_id, unwritten)
                return await self._stays(job_id, error)
            if self._endings.is_stopping(job_id):
                await self._endings.stopped(job_id)
                return False
            try:
                if not self._begin(job_id, device, passed):
                    return False
            except OutOfSpace as error:  # the state cannot be written just now
                if delivery is not None:
                    raise
                self._handed.keep_unwritten(job_id, unwritten)
                return await self._stays(job_id, error)
            memory = in_memory(document)
            try:
                extra = [delivery.descriptors[role] for role in roles] if delivery else []
                with contextlib.suppress(NotFound):  # what an attempt before this one has left
                    await self._launcher.stop(job_id, 0)
                await self._launcher.forget(job_id)
                await self._launcher.start(spec, [memory, *extra])
            except Unavailable as error:
                if isinstance(error, NoAnswer | SandboxUnavailable):
                    raise
                self._wait(job_id, error.message)
                await self._endings.interrupt(
                    job_id, f"it could not be started ({error.message.rstrip('.')})"
                )
                return False
            else:
                if self._endings.is_stopping(job_id):
                    await self._launcher.stop(job_id, self._limits.stop_grace_s)
            finally:
                os.close(memory)
        finally:
            if delivery is not None:
                delivery.close()
        return True

    def _begin(self, job_id: str, device: str | None, passed: Pass) -> bool:
        """It runs from now on. False where what it passed with has changed while this was entered: it stays queued,
        and is asked for again. Errors: OutOfSpace."""
        with self._state.change() as change:
            try:
                passed.recheck(change)
            except CloisterError:
                return False
            row = job_row(change, job_id)
            row.state, row.started_at, row.last_event = JobState.RUNNING, change.now, 0
            row.device = device
            row.attempts, row.result = row.attempts + 1, {}
            announce(change, row)
        return True


async def _pass(row: JobRow) -> Pass:
    """Nothing stands in the way."""
    return Pass()
