"""Screen 3: runs, those that wait and run first; a run's curves, numbers, log and configuration as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual_plotext import PlotextPlot

from cloister.console.asking import ask_merge
from cloister.console.asking_jobs import move, priority_of
from cloister.console.asking_run import ask_run
from cloister.console.asking_shred import ask_shred
from cloister.console.comparing import evaluation, progress, result, settings, side_by_side
from cloister.console.history import POINTS
from cloister.console.lineage import left
from cloister.console.paint import NAME, ago, facts, number, outside, stack, state, styled, titled
from cloister.console.picture import Picture
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.widgets.curves import Curves
from cloister.console.widgets.frame import Words
from cloister.console.widgets.rows import Line
from cloister.shown import standing

if TYPE_CHECKING:
    from cloister.api import Curve, Job, Run
    from cloister.client import Client

LOG_LINES = 40
MOVING = ("running", "queued")
REST_S = 0.3
"""So long the cursor rests on a run before its curve is asked for."""
NUMBERS = {"rss_mib": "memory, MiB", "tokens_per_s": "tokens/s", "holdout_loss": "hold-out loss"}
"""What numbers of a job are called, where their names say it less well."""
RANK = {"running": 0, "queued": 1, "paused": 2}
"""What comes first in the list; what ended comes after it, the newest first."""


class RunsPlace(ListPlace):
    """The queue and the history; `=` marks a run to compare with another."""

    scope = "runs"
    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")
    needs: ClassVar[tuple[str, ...]] = ("runs", "datasets", "bases")
    columns = ("run", "state", "progress", "left", "hold-out", "by", "age")
    least: ClassVar[Mapping[str, int]] = {"run": 14, "progress": 16, "by": 5}
    empty = "No run yet. w arms the console, then n starts one: it needs a base model and a dataset."

    def __init__(self) -> None:
        super().__init__()
        self._marked: str | None = None
        self._curves: set[str] = set()

    def on_screen_resume(self) -> None:
        self._curves.clear()
        super().on_screen_resume()

    def side(self) -> Iterable[Widget]:
        with VerticalScroll(id="side"):
            yield Words(id="about")
            yield Curves()
            yield Words(id="more")
            yield PlotextPlot(id="rate-below", classes="-nothing")

    def lines(self, picture: Picture) -> list[Line]:
        now = self.console.clock()
        newest = sorted(
            picture.runs, key=lambda run: (RANK.get(now_job(run).state, 3), -run.created_at.timestamp())
        )
        return [
            Line(
                run.run_id,
                (
                    outside(f"{'= ' if run.run_id == self._marked else ''}{run.name}", NAME + 2),
                    state(now_job(run).state),
                    _far(now_job(run)),
                    Text(left(now_job(run))),
                    Text(number(_holdout(run))),
                    outside(run.created_by, NAME),
                    Text(ago(run.created_at, now)),
                ),
            )
            for run in newest
        ]

    def about(self, key: str, picture: Picture) -> Text:
        run = next((one for one in picture.runs if one.run_id == key), None)
        if run is None:
            return Text("")
        self._draw(run)
        self.query_one("#more", Words).tell(self._more(run, picture))
        return stack(
            outside(run.name, style="bold"),
            progress(run),
            evaluation(run),
        )

    def _more(self, run: Run, picture: Picture) -> Text:
        return stack(
            _numbers(now_job(run)),
            result(run),
            facts(
                [
                    ("dataset", picture.name_of(run.dataset)),
                    ("base", picture.name_of(run.base)),
                    ("adapter", run.adapter),
                    ("run", run.run_id),
                    ("job", now_job(run).job_id),
                    ("priority", priority_of(now_job(run))),
                    ("by", run.created_by),
                ]
            ),
            self._log(run),
            settings(run),
        )

    def _draw(self, run: Run) -> None:
        history, job = self.console.history, run.train_job.job_id
        older = run.train_job.state not in MOVING or not self.console.feed.whole
        if older and run.run_id not in self._curves:
            self.set_timer(REST_S, lambda: self._ask_curve(run))
        self.query_one(Curves).tell(
            job,
            history.series(job, "loss"),
            history.series(job, "holdout_loss"),
            history.series(job, "learning_rate"),
            colour=not self.console.no_color,
            below=self.query_one("#rate-below", PlotextPlot),
        )

    def _ask_curve(self, run: Run) -> None:
        """The whole curve of a run that is older than the events that were read: once, where the cursor rests."""
        if run.run_id in self._curves or self.chosen is None or self.chosen.key != run.run_id:
            return
        self._curves.add(run.run_id)

        def told(curve: Curve) -> None:
            points = ((point.step, point.values) for point in curve.points)
            self.console.history.fill(run.train_job.job_id, points)
            self.query_one(Curves).hurry()
            self._show_about(self.console.picture)

        self.console.request(
            lambda client: client.run_curve(run.run_id, most=POINTS),
            told,
            doing=f"curve of {run.name}",
            failed=lambda problem: self.console.say(f"No curve of {run.name}: {problem}", "warn"),
            quiet=True,
        )

    def _log(self, run: Run) -> Text:
        history = self.console.history
        told = [*history.lines(run.train_job.job_id)]
        if run.evaluate_job is not None:
            told += history.lines(run.evaluate_job.job_id)
        if not told:
            return Text("")
        lines = [
            styled(f"{time.astimezone():%H:%M:%S} ", "dim") + outside(line, 300)
            for time, line in told[-LOG_LINES:]
        ]
        return titled("Log", Text("\n").join(lines))

    # --- actions ------------------------------------------------------------------------------

    def _run(self) -> Run | None:
        key = self.chosen.key if self.chosen else None
        found = next((run for run in self.console.picture.runs if run.run_id == key), None)
        if found is None:
            self.console.say("The cursor is on no run.", "warn")
        return found

    def _ask(self, doing: str, ask: Callable[[Client, str], object], told: str) -> None:
        run = self._run()
        if run is not None:
            self.console.say(f"{doing} {run.name} …", "info")
            self.console.request(
                lambda client: ask(client, run.run_id),
                lambda _: self.console.say(f"{run.name} {told}"),
                doing=f"{doing} {run.name}",
            )

    def do_run_start(self) -> None:
        ask_run(self.console)

    def do_run_pause(self) -> None:
        self._ask(
            "pause", lambda client, run: client.pause_run(run), "is paused at a checkpoint: e resumes it."
        )

    def do_run_resume(self) -> None:
        self._ask("resume", lambda client, run: client.resume_run(run), "is queued again.")

    def do_run_retry(self) -> None:
        self._ask("retry", lambda client, run: client.retry_run(run), "is queued anew.")

    def do_run_cancel(self) -> None:
        run = self._run()
        if run is None:
            return
        self.console.confirm(
            "Cancel a run",
            stack(progress(run), Text("It writes a checkpoint first and can be resumed.")),
            run.name,
            "cancel it",
            lambda: self._ask("cancel", lambda client, one: client.cancel_run(one), "is stopped."),
        )

    def do_job_raise(self) -> None:
        self._move(1)

    def do_job_lower(self) -> None:
        self._move(-1)

    def _move(self, by: int) -> None:
        run = self._run()
        if run is not None:
            move(self.console, now_job(run), by)

    def do_run_merge(self) -> None:
        run = self._run()
        if run is not None:
            ask_merge(self.console, run.name)

    def do_run_shred(self) -> None:
        run = self._run()
        if run is not None:
            ask_shred(self.console, "runs", run.run_id)

    def do_run_compare(self) -> None:
        run = self._run()
        if run is None:
            return
        marked = next((one for one in self.console.picture.runs if one.run_id == self._marked), None)
        if marked is None or marked is run:
            self._marked = None if marked is run else run.run_id
            self.console.say(
                f"{run.name} is marked: = on another run compares them." if self._marked else "Unmarked."
            )
        else:
            self.console.tell("Two runs", side_by_side(marked, run, self.console.picture.name_of))
            self._marked = None
        self.show(self.console.picture)


def now_job(run: Run) -> Job:
    """The job of a run that matters now: its evaluation once that was begun, unless what it measured is of a run that
    went wrong."""
    return standing(run)


def _far(job: Job) -> Text:
    if job.state == "running" and job.progress is not None:
        return outside(f"{job.progress.stage} {job.progress.done}/{job.progress.total}", 24)
    if job.state == "queued" and job.position is not None:
        return outside(
            f"number {job.position}" + (f", waits: {job.waits_for}" if job.waits_for else ""), NAME + 40
        )
    return Text("")


def _holdout(run: Run) -> object:
    return run.train_job.metrics.get("holdout_loss", run.train_job.result.get("holdout_loss"))


def _numbers(job: Job) -> Text:
    """The numbers of the moment, of a job that runs."""
    if job.state != "running":
        return Text("")
    known = [
        (NUMBERS.get(name) or name.replace("_", " "), number(value)) for name, value in job.metrics.items()
    ]
    devices = (job.device or "cpu").replace(",", ", ")
    return facts([("devices" if "," in devices else "device", devices), *known])


PLACE = RunsPlace
