"""What workers and engines say, one JSON event a line. What does not fit the protocol is dropped unread."""

from __future__ import annotations

import structlog
from pydantic import TypeAdapter, ValidationError

from cloister.api import Failure, Problem, WorkerEvent

log = structlog.get_logger()

CUT_OFF = frozenset({"interrupted", "job-failed"})
"""What the launcher says of a program that ended without a word of its own."""
_EVENT: TypeAdapter[WorkerEvent] = TypeAdapter(WorkerEvent)


def parse_event(line: str) -> WorkerEvent | None:
    """One line of a worker; None for what does not fit the protocol."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError:
        log.warning("worker.unreadable-line", length=len(line))
        return None


def was_killed(exit_code: int) -> bool:
    """By a signal, seen directly or through bubblewrap, which adds 128 to it."""
    return exit_code < 0 or exit_code > 128


def problem_of(failure: Failure, status: int) -> Problem:
    """A program's failure as a client reads it."""
    return Problem(
        title=failure.code.replace("-", " ").capitalize(),
        status=status,
        code=failure.code,
        detail=failure.message,
        where=failure.where,
        remedy=failure.remedy,
        values=failure.values,
    )
