"""What the authority queues, how it stands, and what came of it: jobs and stored objects.

Knows no verb's own settings.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from cloister.api.words import Document, ObjectKind, Problem
from cloister.api.worker import Progress


class JobState(StrEnum):
    WAITING_SOURCE = "waiting-source"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"


FINAL_STATES = frozenset(
    {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED, JobState.PAUSED}
)
"""States that a job does not leave by itself."""


class Job(BaseModel):
    """One thing in the queue. `subject` is the object or run that it makes, `device` where it runs or ran: several
    with commas between.

    While it waits: `position` counts from 1, the one that starts next; `starts_in_s` is an estimate in seconds,
    None where nothing like it ended yet; `waits_for` says what is missing, if anything but its turn.
    """

    job_id: str
    verb: str
    state: JobState
    subject: str | None
    requested_by: str
    priority: int = 0
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 0
    progress: Progress | None = None
    metrics: dict[str, float] = {}
    result: dict[str, Any] = {}
    error: Problem | None = None
    device: str | None = None
    position: int | None = None
    starts_in_s: float | None = None
    waits_for: str | None = None


class PriorityRequest(Document):
    """Another priority for a job that is not done: what has the higher one starts first."""

    priority: int = Field(ge=-10, le=10)


class JobTicket(BaseModel):
    """A job that waits for descriptors: send them with `token` over the side socket."""

    job: Job
    token: str | None = None
    side_socket: str | None = None


class StoredObject(BaseModel):
    """One object version with its manifest's facts."""

    object_id: str
    kind: ObjectKind
    version: int
    name: str
    created_at: datetime
    created_by: str
    sealed_bytes: int
    manifest_sha256: str
    inputs: list[str] = []
    counts: dict[str, int] = {}
    details: dict[str, Any] = {}
    classification: str | None = None
