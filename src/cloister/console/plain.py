"""The console as plain lines, for screen readers and braille: what matters now, then each change as it comes.

Nothing is drawn over, nothing is told by colour or place; a line is a whole sentence, and what waits for somebody
ends with the command that goes on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

from cloister.console.first_steps import first_steps
from cloister.console.picture import Picture, read
from cloister.shown import counted, describe, standing, visible

if TYPE_CHECKING:
    from cloister.api import Event, Run, Status
    from cloister.client import Client

SHELVES = (
    "status", "whoami", "alerts", "approvals", "bases", "datasets", "runs", "jobs", "models", "deployments",
    "clients",
)  # fmt: skip
RETRY_S = 2.0
LIMIT = 1000
"""Characters of one sentence."""


def tell(connect: Callable[[], Client], out: TextIO) -> None:
    """Print what is, then every change, until ctrl-c. Errors: those of `connect`."""
    import time

    from cloister.errors import CloisterError

    client = connect()
    away = False
    while True:
        try:
            picture = looked(client)
            for line in lines(picture):
                print(line, file=out, flush=True)
            away = False
            print("Following. Ctrl-C ends this; nothing that runs is touched.", file=out, flush=True)
            follow(client, picture, out)
        except KeyboardInterrupt:
            return
        except CloisterError as error:
            if not away:
                told = f"Authority away: {error.message}. Asking again by itself."
                print(visible(told), file=out, flush=True)
            away = True
        time.sleep(RETRY_S)


def follow(client: Client, picture: Picture, out: TextIO) -> None:
    """Each change after the picture as a sentence, none twice. Errors: those of `Client.events`."""
    assert picture.status is not None
    names = {job.job_id: f"{job.verb} {picture.subject_of(job)}".strip() for job in picture.jobs}
    told: dict[tuple[str, str | None], str] = {}
    for event in client.events(picture.status.last_seq):
        if event.kind == "job.state" and event.subject is not None and event.data.get("name"):
            names[event.subject] = f"{event.data.get('verb')} {event.data['name']}"
        said = sentence(event, names)
        if said and told.get((event.kind, event.subject)) != said:
            told[event.kind, event.subject] = said
            print(said, file=out, flush=True)


def looked(client: Client) -> Picture:
    """What is now. Errors: Unavailable."""
    return Picture().with_read(*read(client, SHELVES))


def now(client: Client) -> Iterator[str]:
    """What is now, a sentence each. Errors: Unavailable."""
    return lines(looked(client))


def lines(picture: Picture) -> Iterator[str]:
    """What has to be looked at, then the pipeline from data to clients."""
    for line in _lines(picture):
        yield visible(line, limit=LIMIT)
    for shelf, why in picture.refused.items():
        yield visible(f"Not shown, {shelf}: {why}.", limit=LIMIT)


def _lines(picture: Picture) -> Iterator[str]:
    if picture.status is not None:
        yield from _appliance(picture.status)
    for note in picture.notes():
        yield f"Warning: {note}."
    for alert in picture.alerts:
        yield f"Alert, {alert.severity}: {alert.cause}. Affects {alert.affects}. Next: {alert.command}."
    if not picture.alerts and "alerts" in picture.read:
        yield "No alert."
    for one in picture.approvals:
        if one.state == "pending":
            asked = f"Request {one.approval_id} of {one.requested_by}: {one.action} {one.name}"
            yield f"{asked}, waits for somebody's approval: cloister approval show {one.approval_id}."
    for step in first_steps(picture):
        if not step.done:
            yield f"To do: {step.words}: {step.command}."
    for base in picture.bases:
        yield f"Base model {base.name}."
    for data in picture.datasets:
        counts = (
            f"{counted(data.counts.get('rows', 0), 'row')}, {data.counts.get('holdout_rows', 0):,} held out"
        )
        yield f"Dataset {data.name}, version {data.version}, {data.classification or 'restricted'}: {counts}."
    for run in picture.runs:
        yield f"Run {run.name}: {describe(standing(run))}."
        yield from _measured(run)
    for model in picture.models:
        yield f"Merged model {model.name}."
    for deployment in picture.deployments:
        yield f"Deployment {deployment.name}: {deployment.state}."
    for client in picture.clients:
        if client.revoked_at is None:
            yield f"Client {client.name}: its key works, for {', '.join(client.deployments) or 'all'}."
    for job in picture.jobs:
        if job.state in ("queued", "running"):
            name = picture.subject_of(job)
            yield f"Job {job.job_id}{f' of {name}' if name else ''}: {describe(job)}."


def _appliance(status: Status) -> Iterator[str]:
    yield f"Appliance {status.environment.name or socket.gethostname()}."
    if not status.initialised:
        yield "Vault not made yet."
    elif status.locked:
        yield "Vault locked."
        yield "To do: open the vault: cloister unlock."
    else:
        yield "Vault open."
    ledger = "refuses entries" if status.ledger.failure else f"takes entries, has {status.ledger.entries}"
    yield f"Ledger {ledger}, {'witnessed' if status.ledger.witnessed else 'UNWITNESSED'}."
    yield f"Sandbox: {status.sandbox}."
    for process in status.processes:
        if process.state != "running":
            yield f"Process {process.name}: {process.state}."


def _measured(run: Run) -> Iterator[str]:
    """Base against tuned, and the verdict, where they were measured."""
    found = run.evaluation or {}
    base, tuned = found.get("base", {}).get("exact_match"), found.get("tuned", {}).get("exact_match")
    if isinstance(base, int | float) and isinstance(tuned, int | float):
        rows = found.get("rows", "?")
        yield f"Run {run.name}: exact answers {base:.1%} by the base, {tuned:.1%} tuned, on {rows} rows."
    for said in ((found.get("full") or {}).get("verdict") or {}).get("sentences") or []:
        yield f"Run {run.name}: {str(said).rstrip('.')}."


def sentence(event: Event, names: Mapping[str, str] | None = None) -> str | None:
    """One event as a sentence, None for what says nothing to a person. Progress is told by the tenth. `names` are those
    of jobs."""
    data, subject = event.data, event.subject or ""
    who = (names or {}).get(subject) or f"Job {subject}"
    match event.kind:
        case "job.progress":
            total = int(data.get("total", 0))
            tenth = 10 * int(data.get("done", 0)) // total if total else 0
            told = f"{who}: {data.get('stage', '')}, {tenth * 10} percent."
        case "job.metrics":
            loss = data.get("values", {}).get("holdout_loss")
            if loss is None:
                return None
            told = f"{who}: step {data.get('step')}, hold-out loss {loss:.4g}."
        case "job.state" if names is not None and subject in names:
            told = f"{who}: {data.get('state')}."
        case "deployment.state":
            told = f"Deployment {data.get('name')}: {data.get('state')}."
        case "approval.state":
            what = f"Approval {subject}, {data.get('action')} {data.get('name')}: {data.get('state')}"
            told = f"{what}. Shown by: cloister approval show {subject}."
        case "alert.raised":
            told = f"Alert, {data.get('severity')}: {data.get('cause')}."
        case "alert.cleared":
            told = f"Alert {data.get('key')} is over."
        case _:
            pairs = (f"{key} {value}" for key, value in data.items() if isinstance(value, str | int | float))
            about = ", ".join(pairs)
            told = f"{event.kind.replace('.', ' ')} {subject}".rstrip() + (f": {about}." if about else ".")
    return visible(told, limit=LIMIT)
