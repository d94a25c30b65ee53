"""Screen 1: the pipeline as stages, devices, the queue and the alerts; on an empty appliance, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.asking import ask_base
from cloister.console.asking_import import ask_dataset
from cloister.console.asking_jobs import about_job, ask_cancel, ask_resume
from cloister.console.asking_run import ask_run
from cloister.console.asking_vault import ask_initialise, ask_lock, ask_unlock
from cloister.console.first_steps import first_steps, greeting
from cloister.console.paint import ago, facts, grid, marked, outside, stack, state, titled
from cloister.console.picture import Picture
from cloister.console.pipeline import devices, queue, stages, waiting
from cloister.console.remedies import with_keys
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.widgets.rows import Line
from cloister.shown import duration

if TYPE_CHECKING:
    from cloister.api import Alert


class OverviewPlace(ListPlace):
    """Lines: what has to be looked at, the stages, what is queued and running, devices."""

    scope = "overview"
    BINDINGS: ClassVar[list[BindingType]] = bindings("overview")
    needs: ClassVar[tuple[str, ...]] = (
        "status", "alerts", "datasets", "bases", "models", "runs", "jobs", "deployments", "approvals",
    )  # fmt: skip
    columns = ("what", "state", "in it")
    least: ClassVar[Mapping[str, int]] = {"what": 20, "in it": 30}

    def lines(self, picture: Picture) -> list[Line]:
        if not picture.read.issuperset(self.needs) or first_steps(picture):
            return []
        return [
            *_seal(picture),
            *_alerts(picture),
            *waiting(picture),
            *stages(picture),
            *queue(picture),
            *devices(picture, self.console.look_at_machine()),
            *_notes(picture),
        ]

    def greeting(self, picture: Picture) -> Text:
        return greeting(picture, armed=self.console.armed) or Text("Nothing to show.")

    def about(self, key: str, picture: Picture) -> Text:
        kind, _, rest = key.partition(":")
        if kind == "alert":
            for alert in picture.alerts:
                if alert.key == rest:
                    return about_alert(alert, self.console.clock(), self.scope)
        if kind == "job":
            for job in picture.jobs:
                if job.job_id == rest:
                    return about_job(job, picture)
        if kind == "note":
            return stack(marked("warn", "") + outside(with_keys(rest, self.scope)), _appliance(picture))
        return stack(_appliance(picture), *_left(picture))

    def chosen_id(self) -> str | None:
        kind, _, rest = (super().chosen_id() or "").partition(":")
        return rest if kind in ("alert", "job") else None

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

    def do_job_cancel(self) -> None:
        ask_cancel(self)

    def do_job_resume(self) -> None:
        ask_resume(self)

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


def about_alert(alert: Alert, now: datetime, scope: str) -> Text:
    """Why, who is affected, and the next safe command, with its key as seen from that screen."""
    return stack(
        state(alert.severity),
        facts(
            [
                ("alert", alert.key),
                ("since", f"{ago(alert.raised_at, now)} ago"),
                ("cause", alert.cause),
                ("affects", alert.affects),
                ("next", with_keys(alert.command, scope)),
                ("seen by", alert.acknowledged_by or "nobody yet (a acknowledges)"),
            ]
        ),
    )


def _seal(picture: Picture) -> list[Line]:
    """A vault that is locked, and what opens it."""
    status = picture.status
    if status is None or not (status.initialised and status.locked):
        return []
    words = "w, then u opens it; until then no work starts"
    return [Line("vault:", (Text("vault"), state("LOCKED", "warn"), Text(words)))]


def _notes(picture: Picture) -> list[Line]:
    """What the authority warns of, without an alert."""
    return [
        Line(f"note:{warning}", (Text("note"), marked("warn", "look"), outside(warning, 200)))
        for warning in picture.notes()
    ]


def _alerts(picture: Picture) -> list[Line]:
    return [
        Line(
            f"alert:{alert.key}",
            (Text("alert"), state(alert.severity), outside(alert.cause, 200)),
        )
        for alert in picture.alerts
    ]


def _left(picture: Picture) -> list[Text]:
    """How long what runs still takes."""
    rows = [
        (outside(picture.holder(job.job_id)), outside(duration(job.progress.remaining_s)) + " left")
        for job in picture.jobs
        if job.state == "running" and job.progress is not None
    ]
    return [grid(rows)]


def _appliance(picture: Picture) -> Text:
    status = picture.status
    if status is None:
        return Text("")
    processes = [
        (one.name, state(one.state, "good" if one.state == "running" else "bad")) for one in status.processes
    ]
    address = ("served at", status.gateway_url)
    return titled(
        "Appliance", facts([("home", status.home), ("version", status.version), *processes, address])
    )


PLACE = OverviewPlace
