"""One thing that is wrong, as it is found. What becomes of it is `alerts`'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloister.appliance.state import JobRow

NEW_WORK = "whatever is new: jobs, deployments, requests to models"


@dataclass(frozen=True)
class Finding:
    """`key` is the same for as long as it is the same thing."""

    key: str
    severity: Literal["critical", "warning"]
    cause: str
    affects: str
    command: str


def look_at(job: JobRow) -> str:
    """The command that shows a job: a run's can be watched, of what else works the status tells."""
    return f"cloister run watch {job.job_id}" if job.verb in ("train", "evaluate") else "cloister status"
