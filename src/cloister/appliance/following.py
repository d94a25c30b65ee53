"""Following a sandbox from the last line that was taken in to its end, and what that end means for its job.

It starts no sandbox, and does not know what a result is made of.
"""

from __future__ import annotations

import contextlib

from cloister.api import Failure, Metrics, Notice, Progress, Result
from cloister.appliance.endings import Endings
from cloister.appliance.intake import Intake
from cloister.appliance.jobs import job_row
from cloister.appliance.parts import Parts
from cloister.appliance.state import JobRow
from cloister.appliance.worker_events import CUT_OFF, parse_event, problem_of, was_killed
from cloister.errors import CloisterError, NotFound, OutOfSpace, Unavailable


class Follower:
    """Takes in what workers say."""

    def __init__(self, parts: Parts, endings: Endings, intake: Intake) -> None:
        self._state = parts.state
        self._launcher = parts.launcher
        self._endings = endings
        self._intake = intake

    async def follow(self, job_id: str) -> None:
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
            await self._endings.interrupt(job_id, "the launcher stopped, and the sandbox with it")
            return
        await self._end(job_id, result, failure, exit_code)
        with contextlib.suppress(CloisterError):
            await self._launcher.forget(job_id)

    def _take(self, job_id: str, number: int, said: Progress | Metrics | Notice) -> None:
        with self._state.change() as change:
            row = job_row(change, job_id)
            row.last_event = number
            if isinstance(said, Progress):
                row.progress = said.model_dump()
            elif isinstance(said, Metrics):
                row.metrics = {**row.metrics, "step": float(said.step), **said.values}
            change.event(f"job.{said.event}", job_id, **said.model_dump(exclude={"event"}))

    async def _end(
        self, job_id: str, result: Result | None, failure: Failure | None, exit_code: int | None
    ) -> None:
        if result is not None and exit_code == 0:
            await self._intake.take_in(job_id, result)
        elif self._endings.is_stopping(job_id):
            await self._endings.stopped(job_id)
        elif exit_code is None or (was_killed(exit_code) and (failure is None or failure.code in CUT_OFF)):
            await self._endings.interrupt(job_id, "its process was killed")
        elif failure is not None and failure.code != "interrupted":
            await self._endings.fail(job_id, problem_of(failure, 422))
        else:
            await self._endings.interrupt(job_id, "it was stopped")
