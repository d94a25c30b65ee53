"""The place of a job in the queue, changed by whoever may: further ahead, or behind others.

It starts nothing; whose turn it is then is for `turns`.
"""

from __future__ import annotations

from cloister.api import JobState
from cloister.appliance.jobs import announce, job_row
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.state import JobRow
from cloister.errors import Conflict, NotFound


class Priorities:
    """One home's. Errors (all): NotFound, Conflict, LedgerUnavailable."""

    def __init__(self, parts: Parts) -> None:
        self._state = parts.state
        self._recorder = parts.recorder

    async def put_ahead(self, peer: Peer, job_id: str, priority: int) -> None:
        """Give a job a higher priority than it has."""
        await self._change(peer, "job.raise", job_id, priority)

    async def put_behind(self, peer: Peer, job_id: str, priority: int) -> None:
        """Give a job a lower priority than it has."""
        await self._change(peer, "job.lower", job_id, priority)

    async def _change(self, peer: Peer, action: str, job_id: str, priority: int) -> None:
        with self._state.read() as session:
            row = session.get(JobRow, job_id)
        if row is None:
            raise NotFound("there is no job of that id", where=job_id, remedy="See `cloister job list`.")
        _refuse(row, action, priority)
        await self._recorder.record(peer, action, job_id, priority=priority, before=row.priority)
        with self._state.change() as change:
            row = job_row(change, job_id)
            _refuse(row, action, priority)
            row.priority = priority
            announce(change, row)


def _refuse(row: JobRow, action: str, priority: int) -> None:
    """The one is allowed to other people than the other: what is asked for must be what is done. Errors: Conflict."""
    if row.state == JobState.DONE:
        raise Conflict("the job is done", where=row.job_id)
    if priority == row.priority or (priority > row.priority) is not (action == "job.raise"):
        way = "higher" if action == "job.raise" else "lower"
        raise Conflict(f"its priority is {row.priority}, and {priority} is no {way} one", where=row.job_id)
