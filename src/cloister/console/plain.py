"""The console as plain lines, for screen readers and braille: what matters now, then each change as it comes.

Nothing is drawn over, nothing is told by colour or place; a line is a whole sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from cloister.console.picture import Picture, read
from cloister.shown import describe, visible

if TYPE_CHECKING:
    from cloister.api import Event
    from cloister.client import Client

SHELVES = ("status", "alerts", "runs", "jobs", "deployments")
RETRY_S = 2.0


def tell(connect: Callable[[], Client], out: TextIO) -> None:
    """Print what is, then every change, until ctrl-c. Errors: those of `connect`."""
    import time

    from cloister.errors import CloisterError

    client = connect()
    away = False
    while True:
        try:
            status = client.status()
            for line in now(client):
                print(line, file=out, flush=True)
            away = False
            print("Following. Ctrl-C ends this; nothing that runs is touched.", file=out, flush=True)
            told: dict[str, str] = {}
            for event in client.events(status.last_seq):
                said = sentence(event)
                if said and told.get(str(event.subject)) != said:
                    told[str(event.subject)] = said
                    print(said, file=out, flush=True)
        except KeyboardInterrupt:
            return
        except CloisterError as error:
            if not away:
                print(
                    visible(f"Authority away: {error.message}. Asking again by itself."), file=out, flush=True
                )
            away = True
        time.sleep(RETRY_S)


def now(client: Client) -> Iterator[str]:
    """Status, alerts, runs and deployments, a sentence each. Errors: Unavailable."""
    found, refused = read(client, SHELVES)
    picture = Picture().with_read(found, refused)
    status = picture.status
    if status is not None:
        name = status.environment.name
        if name:
            yield visible(f"Appliance {name}.")
        seal = "not made yet" if not status.initialised else "locked" if status.locked else "open"
        yield f"Vault {seal}."
        ledger = "refuses entries" if status.ledger.failure else f"takes entries, has {status.ledger.entries}"
        yield f"Ledger {ledger}, {'witnessed' if status.ledger.witnessed else 'UNWITNESSED'}."
        yield visible(f"Sandbox: {status.sandbox}.")
        for warning in status.warnings:
            yield visible(f"Warning: {warning}.")
    for alert in picture.alerts:
        yield visible(
            f"Alert, {alert.severity}: {alert.cause}. Affects {alert.affects}. Next: {alert.command}."
        )
    if not picture.alerts:
        yield "No alert."
    for run in picture.runs:
        yield visible(f"Run {run.name}: {describe(run.evaluate_job or run.train_job)}.")
    for deployment in picture.deployments:
        yield visible(f"Deployment {deployment.name}: {deployment.state}.")
    for job in picture.jobs:
        if job.state in ("queued", "running"):
            yield visible(f"Job {job.job_id}: {describe(job)}.")


def sentence(event: Event) -> str | None:
    """One event as a sentence, None for what says nothing to a person. Progress is told by the tenth."""
    data = event.data
    if event.kind == "job.progress":
        total = int(data.get("total", 0))
        tenth = 10 * int(data.get("done", 0)) // total if total else 0
        return visible(f"Job {event.subject}: {data.get('stage', '')}, {tenth * 10} percent.")
    if event.kind == "job.metrics":
        loss = data.get("values", {}).get("holdout_loss")
        if loss is None:
            return None
        return f"Job {event.subject}: step {data.get('step')}, hold-out loss {loss:.4g}."
    told = ", ".join(f"{key} {value}" for key, value in data.items() if isinstance(value, str | int | float))
    return visible(f"{event.kind.replace('.', ' ')} {event.subject or ''}: {told or 'done'}.", limit=400)
