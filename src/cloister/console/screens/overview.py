"""Screen 1: the pipeline as stages, devices, the queue and the alerts; on an empty appliance, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.asking import ask_base, ask_dataset
from cloister.console.asking_run import ask_run
from cloister.console.asking_vault import ask_initialise, ask_lock, ask_unlock
from cloister.console.paint import ago, bar, facts, grid, outside, stack, state, styled, titled
from cloister.console.picture import Picture
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.widgets.rows import Line
from cloister.shown import describe, duration, size

if TYPE_CHECKING:
    from cloister.api import Alert, Run

QUEUED = ("queued", "waiting-source", "running", "paused")


class OverviewPlace(ListPlace):
    """Lines: the stages, then alerts, then what is queued and running, then devices."""

    scope = "overview"
    BINDINGS: ClassVar[list[BindingType]] = bindings("overview")
    needs: ClassVar[tuple[str, ...]] = (
        "status", "alerts", "datasets", "bases", "models", "runs", "jobs", "deployments",
    )  # fmt: skip
    columns = ("what", "state", "in it")

    def lines(self, picture: Picture) -> list[Line]:
        if not picture.read.issuperset(self.needs) or next_steps(picture) is not None:
            return []
        return [*_alerts(picture), *_stages(picture), *_queue(picture), *_devices(picture)]

    def greeting(self, picture: Picture) -> Text:
        return next_steps(picture) or Text("Nothing to show.")

    def about(self, key: str, picture: Picture) -> Text:
        kind, _, rest = key.partition(":")
        if kind == "alert":
            for alert in picture.alerts:
                if alert.key == rest:
                    return about_alert(alert, self.console.clock())
        if kind == "job":
            for job in picture.jobs:
                if job.job_id == rest:
                    return titled(job.verb, stack(outside(describe(job)), facts([("job", job.job_id)])))
        return _warnings(picture)

    def chosen_id(self) -> str | None:
        chosen = super().chosen_id()
        return chosen.partition(":")[2] if chosen is not None else None

    def do_open(self) -> None:
        """A stage leads to its screen; the rest opens here."""
        line = self.chosen
        if line is not None and line.key.startswith("go:"):
            self.console.action_perform(f"go.{line.key[3:].partition('/')[0]}")
        else:
            super().do_open()

    # --- actions ------------------------------------------------------------------------------

    def do_alert_acknowledge(self) -> None:
        acknowledge(self, self.chosen_id())

    def do_vault_init(self) -> None:
        ask_initialise(self.console)

    def do_vault_unlock(self) -> None:
        ask_unlock(self.console)

    def do_vault_lock(self) -> None:
        ask_lock(self.console)

    def do_dataset_import(self) -> None:
        ask_dataset(self.console)

    def do_base_import(self) -> None:
        ask_base(self.console)

    def do_run_start(self) -> None:
        ask_run(self.console)


def acknowledge(place: ListPlace, key: str | None) -> None:
    """Say that the operator has seen an alert."""
    console = place.console
    if key is None or key not in {alert.key for alert in console.picture.alerts}:
        console.say("The cursor is on no alert.", "warn")
        return
    console.request(
        lambda client: client.acknowledge(key),
        lambda _: console.say(f"{key} is acknowledged. It stays until its cause is gone."),
        doing="acknowledge",
    )


def next_steps(picture: Picture) -> Text | None:
    """What to do next while the pipeline cannot work yet: each step one key away. None where it can."""
    status = picture.status
    if status is None:
        return None
    steps = [
        ("w", "arm the console: it is read-only until then", False),
        ("v", "initialise: make the vault and its first passphrase", status.initialised),
        ("u", "unlock the vault", status.initialised and not status.locked),
        ("b", "add a base model from a local folder", bool(picture.bases)),
        ("i", "bring in data, sealed from its first byte", bool(picture.datasets)),
        ("n", "start a run", bool(picture.runs)),
    ]
    if not {"bases", "datasets", "runs"} <= picture.read and status.initialised:
        return None
    if picture.runs or (picture.bases and picture.datasets):
        return None
    text = Text("Welcome. This appliance is still empty. Next:\n\n", "bold")
    due = True
    for key, words, done in steps:
        if done:
            text.append(f"  ● {key}  {words}: done\n", "green")
        elif key == "w" or due:
            text.append(f"  ► {key}  {words}\n", "bold")
            due = key == "w"
        else:
            text.append(f"  ○ {key}  {words}\n", "dim")
    text.append("\n? explains this screen. What the console does, `cloister --help` does too.", "dim")
    return text


def about_alert(alert: Alert, now: datetime) -> Text:
    """Why, who is affected, and the next safe command."""
    return stack(
        state(alert.severity),
        facts(
            [
                ("alert", alert.key),
                ("since", f"{ago(alert.raised_at, now)} ago"),
                ("cause", alert.cause),
                ("affects", alert.affects),
                ("next", alert.command),
                ("seen by", alert.acknowledged_by or "nobody yet (a acknowledges)"),
            ]
        ),
    )


def _alerts(picture: Picture) -> list[Line]:
    return [
        Line(
            f"alert:{alert.key}",
            (Text("alert"), state(alert.severity), outside(alert.cause, 200)),
        )
        for alert in picture.alerts
    ]


def _stages(picture: Picture) -> list[Line]:
    runs, jobs = picture.runs, picture.jobs
    live = [one for one in picture.deployments if one.state not in ("stopped", "failed")]
    busy = {verb: sum(job.verb == verb and job.state == "running" for job in jobs) for verb in VERBS}
    measured = [run for run in runs if run.evaluation is not None]
    rows = sum(one.counts.get("rows", 0) for one in picture.datasets)
    return [
        _stage("data", "1 data", busy["import"], len(picture.datasets), "datasets", f"{rows:,} rows"),
        _stage("runs", "2 train", busy["train"], len(runs), "runs", _last(runs)),
        _stage("runs/", "3 evaluate", busy["evaluate"], len(measured), "measured", _best(measured)),
        _stage("models", "4 merge", busy["merge"], len(picture.models), "models", _sizes(picture)),
        _stage("serving", "5 serve", 0, len(live), "served", ", ".join(f"{d.name} {d.state}" for d in live)),
    ]


VERBS = ("import", "train", "evaluate", "merge")


def _stage(place: str, name: str, busy: int, count: int, noun: str, more: str) -> Line:
    counted = f"{count} {noun if count != 1 else noun.removesuffix('s')}"
    told = state(f"{busy} running", "busy") if busy else state(counted, "good" if count else "off")
    return Line(f"go:{place}", (Text(name, "bold"), told, outside(more, 120)))


def _last(runs: Sequence[Run]) -> str:
    return "".join(f"last: {run.name}, {run.train_job.state}" for run in runs[-1:])


def _best(measured: Sequence[Run]) -> str:
    for run in reversed(measured):
        evaluation = run.evaluation or {}
        base, tuned = evaluation.get("base", {}), evaluation.get("tuned", {})
        if "exact_match" in tuned:
            return f"{run.name}: exact {base.get('exact_match', 0):.1%} → {tuned['exact_match']:.1%}"
    return ""


def _sizes(picture: Picture) -> str:
    return size(sum(one.sealed_bytes for one in picture.models)) if picture.models else ""


def _queue(picture: Picture) -> list[Line]:
    lines = []
    for job in picture.jobs:
        if job.state not in QUEUED:
            continue
        told = describe(job).partition(" · ")[2]
        lines.append(
            Line(f"job:{job.job_id}", (outside(f"job {job.verb}"), state(job.state), outside(told, 120)))
        )
    return lines


def _devices(picture: Picture) -> list[Line]:
    status = picture.status
    if status is None:
        return []
    lines = []
    for gpu in status.gpus:
        used, total = gpu.memory_used or 0, gpu.memory_total or 0
        share = f"{bar(used / total)} {size(used)} of {size(total)}" if total else ""
        load = f" {gpu.utilisation_percent}% busy" if gpu.utilisation_percent is not None else ""
        held = ", ".join(gpu.holders) or "free"
        told = state(gpu.problem, "bad") if gpu.problem else state("held" if gpu.holders else "free", "good")
        lines.append(
            Line(
                f"gpu:{gpu.number}", (Text(f"GPU {gpu.number}"), told, outside(f"{share}{load} {held}", 200))
            )
        )
    if not status.gpus:
        holders = [job for job in picture.jobs if job.state == "running"]
        engines = [one for one in picture.deployments if one.state in ("starting", "ready", "restarting")]
        held = ", ".join(
            [*(f"{job.verb} {job.subject or job.job_id}" for job in holders), *(d.name for d in engines)]
        )
        told = state("busy") if holders or engines else state("free", "good")
        lines.append(
            Line("gpu:cpu", (Text("CPU"), told, outside(held or "no GPU: everything runs here", 120)))
        )
    return lines


def _warnings(picture: Picture) -> Text:
    status = picture.status
    if status is None:
        return Text("")
    left = [job for job in picture.jobs if job.state == "running" and job.progress is not None]
    rows = [
        (outside(job.verb), outside(duration(job.progress.remaining_s)) + Text(" left"))
        for job in left
        if job.progress is not None
    ]
    notes = [styled("▲ ", "bold yellow") + outside(warning) for warning in status.warnings]
    processes = [
        (one.name, state(one.state, "good" if one.state == "running" else "bad")) for one in status.processes
    ]
    return stack(
        titled(
            "Appliance",
            facts(
                [
                    ("home", status.home),
                    ("version", status.version),
                    *processes,
                    ("gateway", status.gateway_url),
                ]
            ),
        ),
        grid(rows),
        *notes,
    )


PLACE = OverviewPlace
