"""Taking in what a job has made: its object enters the catalogue, and the job is done; or has failed, where it says
that its numbers went wrong and what it made is from before.

While the vault is locked or the ledger refuses, it waits; the result is kept meanwhile. It reads no
row: a worker's output stays sealed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil

import structlog
from pydantic import ValidationError

from cloister.api import Failure, JobState, Problem, Result
from cloister.appliance.endings import Endings
from cloister.appliance.jobs import OUTPUT_KIND, Completion, Finished, announce, job_row
from cloister.appliance.parts import Parts
from cloister.appliance.state import JobRow
from cloister.appliance.worker_events import problem_of
from cloister.errors import LedgerUnavailable, Locked, OutOfSpace

log = structlog.get_logger()

RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Pauses of a finished job whose result cannot be entered yet."""
HELD_UP = (Locked, LedgerUnavailable, OutOfSpace)
"""What passes: a job waits for its end."""
FAILURE = "failure"
"""Where among its values a run says that it went wrong."""


class Intake:
    """Completes jobs, one call each. `held` are those that wait."""

    def __init__(self, parts: Parts, endings: Endings, on_done: Finished) -> None:
        self._home = parts.home
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._catalogue = parts.catalogue
        self._endings = endings
        self._on_done = on_done
        self.held: set[str] = set()
        self.completions: dict[str, Completion] = {}
        """By verb, what takes in a result that is no new object."""

    async def take_in(self, job_id: str, result: Result) -> None:
        """Complete a job; while the vault is locked or the ledger refuses, wait. Its result is kept."""
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            job_row(change, job_id).result = result.values
        attempt = 0
        while True:
            await self._hold(job_id, self._seal.opened)
            try:
                if self._seal.locked:
                    await self._endings.stopped(job_id)
                else:
                    await self._complete(job_id, result)
                return
            except HELD_UP as error:
                log.warning("job.held-up", job=job_id, code=error.code)
                await self._hold(job_id, asyncio.Event(), RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
                if self._endings.is_stopping(job_id):
                    await self._endings.stopped(job_id)
                    return

    async def _hold(self, job_id: str, until: asyncio.Event, at_most_s: float = math.inf) -> None:
        """Wait for that event, for so long, or until the job is being stopped."""
        end = asyncio.get_running_loop().time() + at_most_s
        self.held.add(job_id)
        try:
            while not until.is_set() and not self._endings.is_stopping(job_id):
                left = end - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, 0.5)):
                        await until.wait()
        finally:
            self.held.discard(job_id)

    async def _complete(self, job_id: str, result: Result) -> None:
        with self._state.read() as session:
            row = session.get_one(JobRow, job_id)
        output = self._home.output_folder(job_id)
        failure = failure_in(row, result)
        about = [name for name in (job_id, row.subject) if name is not None]
        if failure is None:
            index = await self._recorder.record(None, "job.done", *about)
        else:
            index = await self._recorder.record(
                None,
                "job.failed",
                *about,
                reason=failure.code,
                name=row.name,
                verb=row.verb,
                kept=f"step {result.values.get('best_step')}",
            )
        complete = self.completions.get(row.verb)
        if complete is not None:
            await complete(job_id, result.values, index)
            await asyncio.to_thread(shutil.rmtree, output.parent, ignore_errors=True)
            return
        stored = await self._catalogue.take_in(
            row,
            output,
            kind=OUTPUT_KIND[row.verb],
            ledger_index=index,
            details=result.values,
        )
        with self._state.change() as change:
            row = job_row(change, job_id)
            row.state = JobState.DONE if failure is None else JobState.FAILED
            row.ended_at, row.stopping = change.now, None
            row.result = {name: value for name, value in result.values.items() if name != FAILURE}
            row.error = failure.model_dump() if failure is not None else None
            change.session.add(stored)
            change.session.flush()
            announce(change, row)
            change.event(f"{stored.kind}.registered", stored.object_id, name=stored.name)
            self._on_done(change, row, stored)
        await asyncio.to_thread(shutil.rmtree, output.parent, ignore_errors=True)


def failure_in(row: JobRow, result: Result) -> Problem | None:
    """What went wrong with a run that made an adapter all the same; None where nothing did. Never quietly as a success:
    one that does not say it as it should has failed, too."""
    told = result.values.get(FAILURE)
    if told is None:
        return None
    try:
        failure = Failure.model_validate({"event": "failure", **told})
    except (TypeError, ValidationError):
        failure = Failure(code="diverged", message="The run went wrong, and does not say how.")
    measure = f"`cloister evaluate {row.name}` says what the adapter that was kept is worth."
    problem = problem_of(failure, 422)
    return problem.model_copy(update={"remedy": " ".join(filter(None, (problem.remedy, measure)))})
