"""What the parts that queue jobs for clients have in common: where they look, enter, queue and take descriptors in.

It asks for nothing itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cloister.api import Job, JobTicket
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.queue import Queue
from cloister.appliance.side import SideSocket


class Asking:
    """One home's. `refuse_start` raises where nothing new may start."""

    def __init__(
        self, parts: Parts, queue: Queue, side: SideSocket, *, refuse_start: Callable[[], Awaitable[None]]
    ) -> None:
        self._home = parts.home
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._queue = queue
        self._side = side
        self._refuse_start = refuse_start

    def _ticket(self, job: Job, peer: Peer) -> JobTicket:
        """For the account that is to hand over the descriptors which the job waits for."""
        return JobTicket(
            job=job, token=self._side.issue(job.job_id, peer), side_socket=str(self._home.side_socket)
        )
