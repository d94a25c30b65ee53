"""Following a sandbox from the last line that was taken in to its end, and what that end means for its job.

What comes within a moment is kept with one commit: each waits for the disk, and the event loop with it.
It starts no sandbox, and does not know what a result is made of.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from cloister.api import Failure, Metrics, Notice, Progress, Result
from cloister.appliance.curves import add_point
from cloister.appliance.endings import Endings
from cloister.appliance.intake import Intake
from cloister.appliance.jobs import job_row
from cloister.appliance.parts import Parts
from cloister.appliance.state import JobRow
from cloister.appliance.worker_events import CUT_OFF, parse_event, problem_of, was_killed
from cloister.errors import CloisterError, NotFound, OutOfSpace, Unavailable

MOMENT_S = 0.1

Said = Progress | Metrics | Notice


class _Moment:
    """What a worker said since the last commit; `keep` gets it after `MOMENT_S`, or at `end`."""

    def __init__(self, keep: Callable[[list[tuple[int, Said]]], None]) -> None:
        self._keep = keep
        self._said: list[tuple[int, Said]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, number: int, said: Said) -> None:
        self._said.append((number, said))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MOMENT_S, self.end)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        said, self._said = self._said, []
        if said:
            with contextlib.suppress(OutOfSpace):  # progress that cannot be kept costs no work
                self._keep(said)


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
        moment = _Moment(lambda said: self._take(job_id, said))
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
                    moment.add(event.number, said)
        except (Unavailable, NotFound):
            moment.end()
            await self._endings.interrupt(job_id, "the launcher stopped, and the sandbox with it")
            return
        finally:
            moment.end()  # also when this authority lets go: the next one takes up after it
        await self._end(job_id, result, failure, exit_code)
        with contextlib.suppress(CloisterError):
            await self._launcher.forget(job_id)

    def _take(self, job_id: str, moment: list[tuple[int, Said]]) -> None:
        with self._state.change() as change:
            row = job_row(change, job_id)
            for number, said in moment:
                row.last_event = number
                if isinstance(said, Progress):
                    row.progress = said.model_dump()
                elif isinstance(said, Metrics):
                    row.metrics = {**row.metrics, "step": float(said.step), **said.values}
                    add_point(change.session, job_id, said)
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
            why = failure.message.rstrip(".") if failure is not None else "it was stopped"
            await self._endings.interrupt(job_id, why)
