"""Commands on jobs: all that the queue holds, whatever it makes. Runs have commands of their own, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli.leaving import leaving
from cloister.cli.output import JsonFlag, duration, moment, print_json, print_table, say, visible
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import Job

app = typer.Typer(no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `cloister job list` shows it.")]
ENDED = ("done", "failed", "cancelled")


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    json: JsonFlag = False,
) -> None:
    """List what runs, waits, is paused or was cut off: imports, runs, evaluations, merges, reports and the rest."""
    with connect() as client:
        found = [job for job in client.jobs() if every or job.state not in ENDED]
    if json:
        print_json(found)
        return
    print_table(
        ("id", "what", "state", "asked by", "asked", ""),
        [
            (job.job_id, job.verb, job.state, job.requested_by, moment(job.created_at), _told(job))
            for job in found
        ],
        empty="Nothing runs or waits.",
    )


@app.command()
def cancel(job_id: Id, json: JsonFlag = False) -> None:
    """Stop a job, or take it out of the queue; one that trains, evaluates or merges can be resumed."""
    with connect() as client, leaving("it is being stopped all the same.", "See `cloister job list`."):
        job = client.cancel_job(job_id)
    print_json(job) if json else say(f"{job.job_id} is being stopped.")


@app.command()
def pause(job_id: Id, json: JsonFlag = False) -> None:
    """Stop a training, an evaluation or a merge, and free its device for others, until `job resume`."""
    with connect() as client, leaving("it is being paused all the same.", "See `cloister job list`."):
        job = client.pause_job(job_id)
    print_json(job) if json else say(f"{job.job_id} is being paused: `cloister job resume {job.job_id}`.")


@app.command(context_settings={"ignore_unknown_options": True})  # a negative number is none
def priority(
    job_id: Id,
    number: Annotated[
        int,
        typer.Argument(metavar="N", min=-10, max=10, help="Higher starts first; 0 is everybody's at first."),
    ],
    json: JsonFlag = False,
) -> None:
    """Put a job further back in the queue, which is whoever's it is to do, or before others: an operator's."""
    with connect() as client:
        job = client.job(job_id)
        if number > job.priority:
            job = client.raise_job(job_id, number)
        elif number < job.priority:
            job = client.lower_job(job_id, number)
    print_json(job) if json else say(f"{job.job_id} has priority {job.priority}.")


@app.command()
def resume(job_id: Id, json: JsonFlag = False) -> None:
    """Go on with a training, an evaluation or a merge that was paused, stopped or cut off."""
    with connect() as client:
        job = client.resume_job(job_id)
    print_json(job) if json else say(f"{job.job_id} is queued again.")


@app.command()
def retry(job_id: Id, json: JsonFlag = False) -> None:
    """Begin a training, an evaluation or a merge that ended without its result anew."""
    with connect() as client:
        job = client.retry_job(job_id)
    print_json(job) if json else say(f"{job.job_id} is queued anew.")


def _told(job: Job) -> str:
    """Its priority where it is not everybody's; what it waits for, when it starts, or why it ended; and what to do."""
    place = f"priority {job.priority}" if job.priority and job.state not in ENDED else ""
    return "; ".join(filter(None, (place, _stands(job))))


def _stands(job: Job) -> str:
    if job.error is not None:
        return visible(" ".join(filter(None, (job.error.detail, job.error.remedy))))
    if job.waits_for:
        return visible(f"waits for {job.waits_for}")
    if job.starts_in_s is not None:
        return f"starts in about {duration(job.starts_in_s)}"
    if job.position is not None:
        return f"number {job.position} in the queue"
    return ""
