"""Whose turn it is: the order in which waiting jobs start. A pure function of what waits and what ran.

Priority first. Among equals people take turns: who holds fewer places goes first, then who has waited longest
since a job of theirs last started; and among one person's, the oldest. A job that was next already and has places
kept for it stays next: nobody's turn comes before it, only a higher priority. It starts nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol, TypeVar

NEVER = datetime.min.replace(tzinfo=UTC)


class Waiting(Protocol):
    """What a job in the queue is known by."""

    @property
    def job_id(self) -> str: ...
    @property
    def requested_by(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...


Job = TypeVar("Job", bound=Waiting)


def in_turn(
    waiting: Iterable[Job],
    running: Iterable[str],
    last_start: Mapping[str, datetime],
    *,
    kept_for: str | None = None,
    places: Callable[[Job], int] = lambda job: 1,
) -> Iterator[Job]:
    """`waiting` in the order in which they start, the one that starts next first.

    Args:
        waiting: the jobs that may start.
        running: the account of each job that runs, once a place that it holds.
        last_start: when a job of an account last started.
        kept_for: the id of the job that free places are kept for.
        places: how many a job takes.
    """
    queues: dict[str, deque[Job]] = {}
    kept: Job | None = None
    for job in sorted(waiting, key=lambda job: (-job.priority, job.created_at, job.job_id)):
        queues.setdefault(job.requested_by, deque()).append(job)
        kept = job if job.job_id == kept_for else kept
    has = Counter(running)
    while queues:
        account = min(
            queues,
            key=lambda account: (
                -queues[account][0].priority,
                has[account],
                last_start.get(account, NEVER),
                queues[account][0].created_at,
                account,
            ),
        )
        if kept is not None and queues[account][0].priority <= kept.priority:
            job, account, kept = kept, kept.requested_by, None
            queues[account].remove(job)
        else:
            job = queues[account].popleft()
            kept = None if job is kept else kept
        yield job
        has[account] += places(job)
        if not queues[account]:
            del queues[account]
