"""What the console knows of the authority at one moment: frozen, read whole shelves at a time, moved on by events.

It asks nothing by itself and knows no screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
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
    "stream": tuple(SHELVES),
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

    def with_events(self, events: Iterable[Event]) -> Picture:
        """With the progress and the numbers that workers told of: so that a live run needs no reading."""
        told: dict[str, dict[str, Any]] = {}
        for event in events:
            if event.subject is None:
                continue
            if event.kind == "job.progress":
                told.setdefault(event.subject, {})["progress"] = event.data
            elif event.kind == "job.metrics":
                values = {"step": float(event.data.get("step", 0)), **event.data.get("values", {})}
                told.setdefault(event.subject, {}).setdefault("metrics", {}).update(values)
        if not told:
            return self
        return replace(
            self,
            jobs=tuple(_told(job, told) for job in self.jobs),
            runs=tuple(_told_run(run, told) for run in self.runs),
        )

    def may(self, policy: str | None) -> bool:
        """Whether this account's roles could do that at all. Unknown counts as yes: the authority decides."""
        return policy is None or self.whoami is None or policy in self.whoami.actions

    def notes(self) -> list[str]:
        """What the authority warns of, without what an alert tells already."""
        told = any(alert.key.startswith("unwitnessed") for alert in self.alerts)
        warnings = self.status.warnings if self.status is not None else []
        return [one for one in warnings if not (told and one.startswith("UNWITNESSED"))]

    def name_of(self, reference: str) -> str:
        """The name behind an id, or the id itself."""
        for shelf in (self.datasets, self.bases, self.models):
            for one in shelf:
                if one.object_id == reference:
                    return one.name
        for run in self.runs:
            if run.run_id == reference:
                return run.name
        for deployment in self.deployments:
            if deployment.deployment_id == reference:
                return deployment.name
        for client in self.clients:
            if client.client_id == reference:
                return client.name
        return reference

    def subject_of(self, job: Job) -> str:
        """What a job makes or works at, by its name: a run, else an object; empty where it has none."""
        for run in self.runs:
            if job.job_id == run.train_job.job_id or (
                run.evaluate_job is not None and job.job_id == run.evaluate_job.job_id
            ):
                return run.name
        return self.name_of(job.subject) if job.subject is not None else ""

    def holder(self, reference: str) -> str:
        """What holds a device, in words: a job by what it does to what, a deployment by its name."""
        for job in self.jobs:
            if job.job_id == reference:
                return f"{job.verb} {self.subject_of(job) or job.job_id}"
        for one in self.deployments:
            if one.deployment_id == reference:
                return f"serves {one.name}"
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


def _told(job: Job, told: Mapping[str, Mapping[str, Any]]) -> Job:
    news = told.get(job.job_id)
    if news is None:
        return job
    from pydantic import ValidationError

    from cloister.api import Progress

    changes: dict[str, Any] = {}
    if "progress" in news:
        with suppress(ValidationError):  # of an authority of another version: the next reading tells
            changes["progress"] = Progress.model_validate(news["progress"])
    if "metrics" in news:
        changes["metrics"] = {**job.metrics, **news["metrics"]}
    return job.model_copy(update=changes)


def _told_run(run: Run, told: Mapping[str, Mapping[str, Any]]) -> Run:
    if run.train_job.job_id in told:
        return run.model_copy(update={"train_job": _told(run.train_job, told)})
    if run.evaluate_job is not None and run.evaluate_job.job_id in told:
        return run.model_copy(update={"evaluate_job": _told(run.evaluate_job, told)})
    return run
