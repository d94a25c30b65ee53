"""Whose turn it is: the order in which waiting jobs start. A pure function of what waits and what ran.

Priority first. Among equals people take turns: who has less running goes first, then who has waited longest
since a job of theirs last started; and among one person's, the oldest. It starts nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
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
    waiting: Iterable[Job], running: Iterable[str], last_start: Mapping[str, datetime]
) -> Iterator[Job]:
    """`waiting` in the order in which they start, the one that starts next first.

    Args:
        waiting: the jobs that may start.
        running: the account of each job that runs, once a job.
        last_start: when a job of an account last started.
    """
    queues: dict[str, deque[Job]] = {}
    for job in sorted(waiting, key=lambda job: (-job.priority, job.created_at, job.job_id)):
        queues.setdefault(job.requested_by, deque()).append(job)
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
        yield queues[account].popleft()
        has[account] += 1
        if not queues[account]:
            del queues[account]
