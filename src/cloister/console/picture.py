"""What the console knows of the authority at one moment: frozen, read whole shelves at a time, moved on by events.

It asks nothing by itself and knows no screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister.api import (
        Alert,
        ApiClient,
        Approval,
        Backup,
        Deployment,
        Event,
        Hold,
        Job,
        Run,
        SlotView,
        Status,
        StoredObject,
        WhoAmI,
    )
    from cloister.client import Client

SHELVES: dict[str, Callable[[Client], Any]] = {
    "status": lambda client: client.status(),
    "whoami": lambda client: client.whoami(),
    "alerts": lambda client: tuple(client.alerts()),
    "datasets": lambda client: tuple(client.datasets()),
    "bases": lambda client: tuple(client.bases()),
    "models": lambda client: tuple(client.models()),
    "runs": lambda client: tuple(client.runs()),
    "jobs": lambda client: tuple(client.jobs()),
    "deployments": lambda client: tuple(client.deployments()),
    "clients": lambda client: tuple(client.clients()),
    "approvals": lambda client: tuple(client.approvals()),
    "holds": lambda client: tuple(client.holds()),
    "slots": lambda client: tuple(client.slots()),
    "backups": lambda client: tuple(client.backups()),
}
"""What can be read, each with the one request that reads it."""

STALE: dict[str, tuple[str, ...]] = {
    "alert": ("alerts",),
    "approval": ("approvals", "status"),
    "appliance": tuple(SHELVES),
    "authority": tuple(SHELVES),
    "backup": ("backups",),
    "base": ("bases",),
    "client": ("clients",),
    "dataset": ("datasets", "holds"),
    "deployment": ("deployments", "status"),
    "evaluation": ("runs",),
    "adapter": ("runs",),
    "job": ("jobs", "runs", "status"),
    "model": ("models",),
    "policy": ("whoami", "status"),
    "run": ("runs",),
    "shred": ("datasets", "models", "runs", "holds"),
    "sink": ("status",),
    "vault": tuple(SHELVES),
}
"""Which shelves an event of that kind makes stale."""


@dataclass(frozen=True)
class Picture:
    """`read` names the shelves that were read, `refused` those that were not let be, with the reason.

    `away` says what is wrong while the authority does not answer.
    """

    status: Status | None = None
    whoami: WhoAmI | None = None
    alerts: tuple[Alert, ...] = ()
    datasets: tuple[StoredObject, ...] = ()
    bases: tuple[StoredObject, ...] = ()
    models: tuple[StoredObject, ...] = ()
    runs: tuple[Run, ...] = ()
    jobs: tuple[Job, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    clients: tuple[ApiClient, ...] = ()
    approvals: tuple[Approval, ...] = ()
    holds: tuple[Hold, ...] = ()
    slots: tuple[SlotView, ...] = ()
    backups: tuple[Backup, ...] = ()
    read: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    away: str | None = None

    def with_read(self, found: Mapping[str, Any], refused: Mapping[str, str]) -> Picture:
        """With these shelves as they were just read."""
        still = {name: why for name, why in self.refused.items() if name not in found}
        return replace(self, **found, read=self.read | set(found), refused={**still, **refused})

    def with_event(self, event: Event) -> Picture:
        """With the progress and the numbers that a worker told of: so that a live run needs no reading."""
        if event.kind not in ("job.progress", "job.metrics") or event.subject is None:
            return self
        jobs = tuple(_told(job, event) for job in self.jobs)
        return replace(self, jobs=jobs, runs=tuple(_told_run(run, event) for run in self.runs))

    def may(self, policy: str | None) -> bool:
        """Whether this account's roles could do that at all. Unknown counts as yes: the authority decides."""
        return policy is None or self.whoami is None or policy in self.whoami.actions

    def name_of(self, reference: str) -> str:
        """The name behind an id, or the id itself."""
        for shelf in (self.datasets, self.bases, self.models):
            for one in shelf:
                if one.object_id == reference:
                    return one.name
        return reference


def stale(kind: str) -> tuple[str, ...]:
    """The shelves that an event makes stale. What only moves numbers on makes none."""
    if kind in ("job.progress", "job.metrics", "job.notice", "deployment.progress"):
        return ()
    return STALE.get(kind.split(".", 1)[0], ())


def read(client: Client, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What these shelves hold now, and why some could not be read. Errors: Unavailable."""
    from cloister.errors import CloisterError, Unavailable

    found: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            found[name] = SHELVES[name](client)
        except Unavailable:
            raise
        except CloisterError as error:
            refused[name] = error.message
    return found, refused


def _told(job: Job, event: Event) -> Job:
    if job.job_id != event.subject:
        return job
    from cloister.api import Progress

    if event.kind == "job.progress":
        return job.model_copy(update={"progress": Progress.model_validate(event.data)})
    values = {"step": float(event.data.get("step", 0)), **event.data.get("values", {})}
    return job.model_copy(update={"metrics": {**job.metrics, **values}})


def _told_run(run: Run, event: Event) -> Run:
    if run.train_job.job_id == event.subject:
        return run.model_copy(update={"train_job": _told(run.train_job, event)})
    if run.evaluate_job is not None and run.evaluate_job.job_id == event.subject:
        return run.model_copy(update={"evaluate_job": _told(run.evaluate_job, event)})
    return run
