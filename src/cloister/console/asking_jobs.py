"""Jobs of every sort, wherever a line is one: what it is, cancel it, go on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import facts, outside, stack, state, styled, titled
from cloister.console.remedies import tried
from cloister.errors import Conflict
from cloister.shown import describe, moment

if TYPE_CHECKING:
    from cloister.api import Job
    from cloister.client import Client
    from cloister.console.app import ConsoleApp
    from cloister.console.picture import Picture
    from cloister.console.screens.place import ListPlace

HIGHEST = 10
"""Of priorities; the lowest is as far below 0."""
CANCELLED = ("waiting-source", "queued", "running", "paused", "interrupted")
GOES_ON = ("paused", "interrupted", "cancelled")


def about_job(job: Job, picture: Picture) -> Text:
    """How far it is, whose it is, and what became of it."""
    problem = []
    if job.error is not None:
        problem.append(styled("× ", "bold red") + outside(job.error.detail))
        problem.append(tried(job.error.remedy))
    return titled(
        job.verb,
        stack(
            state(job.state) + outside(f"  {describe(job).partition(' · ')[2]}"),
            *problem,
            facts(
                [
                    ("of", picture.subject_of(job)),
                    ("job", job.job_id),
                    ("by", f"{job.requested_by}, {moment(job.created_at)}"),
                    ("on", job.device),
                    ("priority", priority_of(job)),
                ]
            ),
            Text("X cancels it; leaving this screen, or the console, does not.", "dim"),
        ),
    )


def signed(priority: int) -> str:
    """`+1`, `0`, `-1`."""
    return f"{priority:+}" if priority else "0"


def priority_of(job: Job) -> str | None:
    """Where it is not everybody's, as long as it counts."""
    return signed(job.priority) if job.priority and job.state != "done" else None


def chosen_job(place: ListPlace) -> Job | None:
    """The job under the cursor; that there is none is said."""
    key = place.chosen.key.removeprefix("job:") if place.chosen else None
    found = next((one for one in place.console.picture.jobs if one.job_id == key), None)
    if found is None:
        place.console.say("The cursor is on no job.", "warn")
    return found


def ask_cancel(place: ListPlace) -> None:
    """What it is and how far; its kind typed; then it is stopped, or taken out of the queue."""
    console, job = place.console, chosen_job(place)
    if job is None:
        return
    if job.state not in CANCELLED:
        console.say(f"It is {job.state} already.", "warn")
        return
    console.confirm(
        "Cancel a job",
        stack(
            about_job(job, console.picture),
            Text("What trains, measures or merges can be gone on with; anything else begins anew."),
        ),
        job.verb,
        "cancel it",
        lambda: console.request(
            lambda client: client.cancel_job(job.job_id),
            lambda _: console.say(f"{job.verb} ({job.job_id}) is being stopped."),
            doing=f"cancel {job.verb}",
        ),
    )


def move(console: ConsoleApp, job: Job, by: int) -> None:
    """Put it before others, or behind them: its priority goes up or down by one, from what it is by then."""
    named = console.picture.subject_of(job) or job.verb
    if job.state == "done":
        console.say(f"{named} is done: its priority counts no more.", "warn")
        return

    def change(client: Client) -> Job:
        priority = client.job(job.job_id).priority + by
        if abs(priority) > HIGHEST:
            raise Conflict(f"its priority is {signed(priority - by)}, and there is none beyond")
        return client.raise_job(job.job_id, priority) if by > 0 else client.lower_job(job.job_id, priority)

    def told(job: Job) -> None:
        console.say(f"{named} has priority {signed(job.priority)}{_counts(job)}.")

    console.request(change, told, doing=f"put {named} {'before' if by > 0 else 'behind'} others")


def _counts(job: Job) -> str:
    """When a priority counts: at once only for what waits in the queue."""
    if job.position is not None:
        return f": number {job.position} in the queue"
    if job.state == "running":
        return ": it runs, so that counts once it has made way"
    if job.state in GOES_ON or job.state == "failed":
        return f": it is {job.state}, so that counts once it is queued again"
    return ""


def ask_resume(place: ListPlace) -> None:
    """Go on with what was paused, stopped or cut off."""
    console, job = place.console, chosen_job(place)
    if job is None:
        return
    if job.state not in GOES_ON:
        console.say(f"It is {job.state}: there is nothing to go on with.", "warn")
        return
    console.request(
        lambda client: client.resume_job(job.job_id),
        lambda _: console.say(f"{job.verb} ({job.job_id}) is queued again."),
        doing=f"resume {job.verb}",
    )
