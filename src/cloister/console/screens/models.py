"""Screen 4: what came of what, as a tree of bases, runs and merged models; and the approvals that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.approving import ask_approval, ask_refusal, shown
from cloister.console.asking import ask_base, ask_serve
from cloister.console.asking_shred import ask_shred
from cloister.console.comparing import evaluation
from cloister.console.paint import ago, facts, flat, outside, stack, state, styled
from cloister.console.picture import Picture
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.weighing import ask_evaluation, show_table
from cloister.console.widgets.rows import Line
from cloister.shown import moment, size

if TYPE_CHECKING:
    from cloister.api import Approval, Run, StoredObject

OPEN = ("pending", "approved")


class ModelsPlace(ListPlace):
    """Open approvals first, then the lineage."""

    scope = "models"
    BINDINGS: ClassVar[list[BindingType]] = bindings("models")
    needs: ClassVar[tuple[str, ...]] = ("models", "bases", "runs", "datasets", "approvals", "deployments")
    columns = ("lineage", "what", "state", "exact", "age", "by")
    empty = "No base model yet. w arms the console, then b adds one from a local folder."

    def lines(self, picture: Picture) -> list[Line]:
        now = self.console.clock()
        waiting = [
            Line(
                one.approval_id,
                (
                    outside(f"{one.action} {one.name}", 36),
                    Text("request"),
                    state(one.state),
                    Text(""),
                    Text(ago(one.requested_at, now)),
                    outside(one.requested_by, 12),
                ),
            )
            for one in picture.approvals
            if one.state in OPEN
        ]
        return waiting + self._tree(picture)

    def _tree(self, picture: Picture) -> list[Line]:
        lines: list[Line] = []
        known = {one.object_id for one in picture.bases}
        for base in picture.bases:
            lines.append(
                self._line(base.object_id, base.name, "base model", Text(size(base.sealed_bytes)), "", base)
            )
            runs = [run for run in picture.runs if run.base == base.object_id]
            lines += self._runs(picture, runs)
        lines += self._runs(picture, [run for run in picture.runs if run.base not in known])
        placed = {line.key for line in lines}
        for model in picture.models:  # of a run that is gone
            if model.object_id not in placed:
                lines.append(self._model(picture, model, ""))
        return lines

    def _runs(self, picture: Picture, runs: list[Run]) -> list[Line]:
        lines = []
        for number_, run in enumerate(runs, 1):
            last = number_ == len(runs)
            came = [one for one in picture.models if run.adapter is not None and run.adapter in one.inputs]
            lines.append(
                Line(
                    run.run_id,
                    (
                        styled("└─ " if last else "├─ ", "dim") + outside(run.name, 28),
                        Text("run"),
                        state((run.evaluate_job or run.train_job).state),
                        Text(_exact(run)),
                        Text(ago(run.created_at, self.console.clock())),
                        outside(run.created_by, 12),
                    ),
                )
            )
            lead = "   " if last else "│  "
            lines += [
                self._model(picture, model, lead + ("└─ " if model is came[-1] else "├─ ")) for model in came
            ]
        return lines

    def _model(self, picture: Picture, model: StoredObject, lead: str) -> Line:
        served = [one for one in picture.deployments if one.model == model.object_id and one.state == "ready"]
        told = state("served", "good") if served else state("merged", "off")
        return self._line(model.object_id, lead, "merged model", told, model.name, model)

    def _line(self, key: str, lead: str, kind: str, told: Text, name: str, one: StoredObject) -> Line:
        lineage = styled(lead, "dim") + outside(name, 28) if name else outside(lead, 28, "bold")
        return Line(
            key,
            (
                lineage,
                Text(kind),
                told,
                Text(""),
                Text(ago(one.created_at, self.console.clock())),
                outside(one.created_by, 12),
            ),
        )

    def about(self, key: str, picture: Picture) -> Text:
        for approval in picture.approvals:
            if approval.approval_id == key:
                return shown(approval)
        for run in picture.runs:
            if run.run_id == key:
                return stack(
                    outside(run.name, style="bold"),
                    evaluation(run),
                    _whole_table(run),
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
        approved = [a for a in picture.approvals if a.thing in (one.object_id, one.name)]
        return stack(
            outside(one.name, style="bold"),
            facts(
                [
                    ("kind", one.kind),
                    ("id", one.object_id),
                    ("class", one.classification),
                    ("made", f"{moment(one.created_at)} by {one.created_by}"),
                    ("size", size(one.sealed_bytes)),
                    ("made of", ", ".join(one.inputs)),
                    ("manifest", one.manifest_sha256),
                ]
            ),
            *came,
            facts(flat(one.details)),
            *(
                state(a.state) + outside(f" {a.action}, decided by {a.decided_by or 'nobody yet'}")
                for a in approved
            ),
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
            self.console.request(
                lambda client: client.withdraw(approval.approval_id),
                lambda one: self.console.say(f"{one.approval_id} is withdrawn."),
                doing="withdraw",
            )

    def do_base_import(self) -> None:
        ask_base(self.console)

    def do_model_serve(self) -> None:
        model = self._merged()
        if model is not None:
            ask_serve(self.console, model.name)

    def do_model_shred(self) -> None:
        model = self._merged()
        if model is not None:
            ask_shred(self.console, "models", model.object_id)


def _whole_table(run: Run) -> Text:
    """How to see whether it was worth it."""
    if "full" in (run.evaluation or {}):
        return Text("t shows every way of asking, with intervals and costs.", "dim")
    return Text("e sets it against prompting and retrieval." if run.adapter is not None else "", "dim")


def _exact(run: Run) -> str:
    tuned = (run.evaluation or {}).get("tuned", {}).get("exact_match")
    return f"{tuned:.1%}" if isinstance(tuned, int | float) else ""


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
