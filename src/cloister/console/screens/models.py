"""Screen 4: what came of what, as a tree of bases, runs and merged models; and the approvals that wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.approving import ask_approval, ask_refusal, ask_withdrawal, decisions, shown
from cloister.console.asking import ask_base, ask_merge, ask_serve
from cloister.console.asking_jobs import about_job, ask_cancel
from cloister.console.asking_out import ask_export
from cloister.console.asking_shred import ask_shred
from cloister.console.comparing import evaluation
from cloister.console.lineage import far, lineage
from cloister.console.paint import NAME, ago, facts, flat, outside, stack, state, titled
from cloister.console.picture import Picture
from cloister.console.rolling_back import ENDED, ask_rollback
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.weighing import ask_evaluation, show_table
from cloister.console.widgets.rows import Line
from cloister.shown import moment, size

if TYPE_CHECKING:
    from cloister.api import Approval, Run, StoredObject

OPEN = ("pending", "approved")
MOVING = ("queued", "running")
SIGNED = "the manifest, by this appliance when it was taken in"


class ModelsPlace(ListPlace):
    """Open approvals first, then the lineage."""

    scope = "models"
    BINDINGS: ClassVar[list[BindingType]] = bindings("models")
    needs: ClassVar[tuple[str, ...]] = (
        "models",
        "bases",
        "runs",
        "datasets",
        "approvals",
        "deployments",
        "jobs",
    )
    columns = ("lineage", "what", "state", "exact", "age", "by")
    least: ClassVar[Mapping[str, int]] = {"lineage": 20, "by": 5}
    empty = "No base model yet. w arms the console, then b adds one from a local folder."

    def lines(self, picture: Picture) -> list[Line]:
        now = self.console.clock()
        waiting = [
            Line(
                one.approval_id,
                (
                    outside(one.name, NAME),
                    outside(one.action, NAME),
                    state(one.state),
                    Text(""),
                    Text(ago(one.requested_at, now)),
                    outside(one.requested_by, NAME),
                ),
            )
            for one in picture.approvals
            if one.state in OPEN
        ]
        merging = [
            Line(
                job.job_id,
                (
                    Text("a merge"),
                    Text("job"),
                    state(job.state),
                    far(job),
                    Text(ago(job.created_at, now)),
                    outside(job.requested_by, NAME),
                ),
            )
            for job in picture.jobs
            if job.verb == "merge" and job.state in MOVING
        ]
        return waiting + merging + lineage(picture, now)

    def about(self, key: str, picture: Picture) -> Text:
        for approval in picture.approvals:
            if approval.approval_id == key:
                return shown(approval)
        for job in picture.jobs:
            if job.job_id == key:
                return about_job(job, picture)
        for run in picture.runs:
            if run.run_id == key:
                return stack(
                    outside(run.name, style="bold"),
                    evaluation(run),
                    _whole_table(run),
                    decisions(picture, run.name, "Run"),
                    _run_facts(run, picture),
                )
        for one in (*picture.models, *picture.bases):
            if one.object_id == key:
                return self._stored(one, picture)
        return Text("")

    def _stored(self, one: StoredObject, picture: Picture) -> Text:
        came = [
            evaluation(run) for run in picture.runs if run.adapter is not None and run.adapter in one.inputs
        ]
        return stack(
            outside(one.name, style="bold"),
            facts(
                [
                    ("kind", one.kind),
                    ("id", one.object_id),
                    ("class", one.classification),
                    ("made", f"{moment(one.created_at)} by {one.created_by}"),
                    ("size", size(one.sealed_bytes)),
                    ("made of", ", ".join(_named(each, picture) for each in one.inputs)),
                    ("manifest", one.manifest_sha256),
                    ("signed", SIGNED),
                ]
            ),
            decisions(picture, one.object_id, "Deployment", "Model") if one.kind == "model" else "",
            *came,
            titled("What it is" if one.kind == "base" else "The merge", facts(flat(one.details))),
        )

    # --- actions ------------------------------------------------------------------------------

    def _approval(self) -> Approval | None:
        key = self.chosen.key if self.chosen else None
        found = next((one for one in self.console.picture.approvals if one.approval_id == key), None)
        if found is None:
            self.console.say("The cursor is on no request.", "warn")
        return found

    def _merged(self) -> StoredObject | None:
        key = self.chosen.key if self.chosen else None
        found = next((one for one in self.console.picture.models if one.object_id == key), None)
        if found is None:
            self.console.say("The cursor is on no merged model.", "warn")
        return found

    def _run(self) -> Run | None:
        """The run under the cursor, or the one that the model under it came of."""
        key = self.chosen.key if self.chosen else None
        made_of = {name for one in self.console.picture.models if one.object_id == key for name in one.inputs}
        for run in self.console.picture.runs:
            if run.run_id == key or run.adapter in made_of:
                return run
        self.console.say("The cursor is on no run.", "warn")
        return None

    def do_evaluation_show(self) -> None:
        run = self._run()
        if run is not None:
            show_table(self.console, run.run_id, run.name)

    def do_evaluation_start(self) -> None:
        run = self._run()
        if run is not None:
            ask_evaluation(self.console, run)

    def do_approval_give(self) -> None:
        approval = self._approval()
        if approval is not None:
            ask_approval(self.console, approval)

    def do_approval_refuse(self) -> None:
        approval = self._approval()
        if approval is not None:
            ask_refusal(self.console, approval)

    def do_approval_withdraw(self) -> None:
        approval = self._approval()
        if approval is not None:
            ask_withdrawal(self.console, approval)

    def do_base_import(self) -> None:
        ask_base(self.console)

    def do_run_merge(self) -> None:
        run = self._run()
        if run is not None:
            ask_merge(self.console, run.name)

    def do_job_cancel(self) -> None:
        ask_cancel(self)

    def do_model_serve(self) -> None:
        model = self._merged()
        if model is not None:
            ask_serve(self.console, model.name)

    def do_model_rollback(self) -> None:
        """Of the name that serves it now."""
        model = self._merged()
        if model is None:
            return
        served = [
            one
            for one in self.console.picture.deployments
            if one.model == model.object_id and one.state not in ENDED
        ]
        if not served:
            self.console.say(f"{model.name} is not served: s serves it.", "warn")
            return
        ask_rollback(self.console, served[-1])

    def do_model_export(self) -> None:
        model = self._merged()
        if model is not None:
            ask_export(self.console, model)

    def do_model_shred(self) -> None:
        model = self._merged()
        if model is not None:
            ask_shred(self.console, "models", model.object_id)


def _named(reference: str, picture: Picture) -> str:
    for run in picture.runs:
        if run.adapter == reference:
            return f"the adapter of {run.name} ({reference})"
    name = picture.name_of(reference)
    return reference if name == reference else f"{name} ({reference})"


def _whole_table(run: Run) -> Text:
    """How to see whether it was worth it."""
    if "full" in (run.evaluation or {}):
        return Text("t shows every way of asking, with intervals and costs.", "dim")
    return Text("e sets it against prompting and retrieval." if run.adapter is not None else "", "dim")


def _run_facts(run: Run, picture: Picture) -> Text:
    return facts(
        [
            ("dataset", picture.name_of(run.dataset)),
            ("base", picture.name_of(run.base)),
            ("adapter", run.adapter),
            ("run", run.run_id),
        ]
    )


PLACE = ModelsPlace
