"""Screen 2: datasets and their versions; bring in, look into, derive, classify, hold, shred.

Rows stay hidden but for those that are revealed, which is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.approving import in_a_line
from cloister.console.asking_data import ask_derive, ask_render, ask_report, ask_rows, show_report
from cloister.console.asking_import import ask_dataset
from cloister.console.asking_jobs import about_job, ask_cancel
from cloister.console.asking_out import ask_forget
from cloister.console.asking_shred import ask_shred
from cloister.console.lineage import far, left
from cloister.console.paint import (
    NAME,
    WORDS,
    ago,
    facts,
    flat,
    marked,
    number,
    outside,
    stack,
    state,
    styled,
    titled,
)
from cloister.console.picture import Picture
from cloister.console.screens.dialogs import Field
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.widgets.rows import Line
from cloister.shown import moment, size

if TYPE_CHECKING:
    from cloister.api import Approval, StoredObject

CLASSES = ("public", "internal", "confidential", "restricted")
VERBS = ("import", "report", "derive", "forget", "reveal")
MOVING = ("waiting-source", "queued", "running")
OPEN = ("pending", "approved")
MOODS = {"public": "off", "internal": "good", "confidential": "warn", "restricted": "bad"}


class DataPlace(ListPlace):
    """One line a dataset version."""

    scope = "data"
    BINDINGS: ClassVar[list[BindingType]] = bindings("data")
    needs: ClassVar[tuple[str, ...]] = ("datasets", "holds", "runs", "jobs", "bases", "approvals")
    columns = ("dataset", "v", "class", "rows", "held out", "size", "by", "age")
    least: ClassVar[Mapping[str, int]] = {"dataset": 14, "by": 5}
    empty = "No data yet. w arms the console, then i brings a file in: sealed from its first byte."

    def lines(self, picture: Picture) -> list[Line]:
        now = self.console.clock()
        held, asked = _held(picture), {one.thing: one.state for one in _asked(picture)}
        moving = [
            Line(
                job.job_id,
                (
                    outside(f"{job.verb} {picture.subject_of(job)}", NAME + len(job.verb)),
                    Text(""),
                    state(job.state),
                    far(job),
                    Text(""),
                    Text(left(job)),
                    outside(job.requested_by, NAME),
                    Text(ago(job.created_at, now)),
                ),
            )
            for job in picture.jobs
            if job.verb in VERBS and job.state in MOVING
        ]
        return moving + [
            self._line(
                one,
                held=one.object_id in held,
                asked=asked.get(one.object_id) or asked.get(one.name),
                age=ago(one.created_at, now),
            )
            for one in sorted(picture.datasets, key=lambda one: (one.name, -one.version))
        ]

    def _line(self, one: StoredObject, *, held: bool, asked: str | None, age: str) -> Line:
        def cells() -> tuple[Text, ...]:
            return (
                outside(one.name, NAME),
                Text(str(one.version)),
                classed(one.classification, held=held, asked=asked),
                Text(number(one.counts.get("rows"))),
                Text(number(one.counts.get("holdout_rows"))),
                Text(size(one.sealed_bytes)),
                outside(one.created_by, NAME),
                Text(age),
            )

        return self.line(f"{one.object_id} {one.version}", (one, held, asked, age), cells, one.object_id)

    def about(self, key: str, picture: Picture) -> Text:
        job = next((job for job in picture.jobs if job.job_id == key), None)
        if job is not None:
            return about_job(job, picture)
        one = self._of(key, picture)
        if one is None:
            return Text("")
        asked = [a for a in _asked(picture) if a.thing in (one.object_id, one.name)]
        runs = [run.name for run in picture.runs if one.object_id in (run.dataset, run.holdout)]
        holds = [
            hold for hold in picture.holds if hold.object_id == one.object_id and hold.released_at is None
        ]
        return stack(
            outside(one.name, style="bold"),
            facts(
                [
                    ("class", classed(one.classification)),
                    ("dataset", one.object_id),
                    ("version", one.version),
                    ("made", f"{moment(one.created_at)} by {one.created_by}"),
                    ("sealed", size(one.sealed_bytes)),
                    ("key", "its own, wrapped in the vault"),
                    ("manifest", one.manifest_sha256),
                    ("runs", ", ".join(runs) or "none yet"),
                ]
            ),
            *(state("held", "warn") + outside(f" by {h.placed_by}: {h.reason} ({h.hold_id})") for h in holds),
            *map(in_a_line, asked),
            titled(
                "Counts", facts((name.replace("_", " "), number(value)) for name, value in one.counts.items())
            ),
            titled("Report", facts(flat(one.details))),
            Text("o shows its report. Rows stay hidden: v reveals some, which is recorded.", "dim"),
        )

    @staticmethod
    def _of(key: str, picture: Picture) -> StoredObject | None:
        return next((one for one in picture.datasets if f"{one.object_id} {one.version}" == key), None)

    def _chosen(self) -> StoredObject | None:
        line = self.chosen
        found = self._of(line.key, self.console.picture) if line is not None else None
        if found is None:
            self.console.say("The cursor is on no dataset.", "warn")
        return found

    def _newest(self) -> StoredObject | None:
        """The chosen one, where it is the version that the authority looks into."""
        one = self._chosen()
        versions = [
            other.version
            for other in self.console.picture.datasets
            if one is not None and other.object_id == one.object_id
        ]
        if one is not None and one.version < max(versions):
            self.console.say(f"Only its newest version, {max(versions)}, can be looked into.", "warn")
            return None
        return one

    # --- actions ------------------------------------------------------------------------------

    def do_dataset_import(self) -> None:
        ask_dataset(self.console)

    def do_dataset_report(self) -> None:
        one = self._newest()
        if one is not None:
            show_report(self.console, one)

    def do_dataset_measure(self) -> None:
        one = self._newest()
        if one is not None:
            ask_report(self.console, one)

    def do_dataset_reveal(self) -> None:
        one = self._newest()
        if one is not None:
            ask_rows(self.console, one)

    def do_dataset_render(self) -> None:
        one = self._newest()
        if one is not None:
            ask_render(self.console, one)

    def do_dataset_derive(self) -> None:
        one = self._newest()
        if one is not None:
            ask_derive(self.console, one)

    def do_dataset_forget(self) -> None:
        one = self._newest()
        if one is not None:
            ask_forget(self.console, one)

    def do_dataset_classify(self) -> None:
        one = self._chosen()
        if one is None:
            return
        from cloister.api import ClassifyRequest

        def go_on(values: dict[str, str]) -> None:
            request = ClassifyRequest.model_validate({"classification": values["class"]})
            milder = CLASSES.index(values["class"]) < CLASSES.index(one.classification or CLASSES[-1])
            self.console.request(
                lambda client: (client.declassify if milder else client.classify)(one.object_id, request),
                lambda stored: self.console.say(f"{stored.name} is {stored.classification}."),
                doing=f"classify {one.name}",
            )

        self.console.ask_form(
            "Classify a dataset",
            [
                Field("class", "Class", one.classification or CLASSES[-1], choices=CLASSES),
                Field("sure", "Enter does it", help="stricter counts at once; milder takes an approval"),
            ],
            go_on,
            note=outside(one.name, style="bold"),
        )

    def do_dataset_hold(self) -> None:
        one = self._chosen()
        if one is None:
            return
        from cloister.api import HoldRequest

        self.console.ask_form(
            "Place a legal hold",
            [Field("reason", "Reason", help="stands in the ledger; no personal data", needed=True)],
            lambda values: self.console.request(
                lambda client: client.hold(one.object_id, HoldRequest(reason=values["reason"][:300])),
                lambda hold: self.console.say(f"{hold.name} is held ({hold.hold_id})."),
                doing=f"hold {one.name}",
            ),
            note=outside(one.name, style="bold"),
        )

    def do_dataset_release(self) -> None:
        one = self._chosen()
        if one is None:
            return
        holds = [
            h for h in self.console.picture.holds if h.object_id == one.object_id and h.released_at is None
        ]
        if not holds:
            self.console.say(f"{one.name} is not held.", "warn")
            return
        self.console.confirm(
            "Release a legal hold",
            stack(
                *(outside(f"{h.hold_id} by {h.placed_by}, {moment(h.placed_at)}: {h.reason}") for h in holds)
            ),
            one.name,
            "release it",
            lambda: self.console.request(
                lambda client: client.release(one.object_id),
                lambda _: self.console.say(f"{one.name} is released."),
                doing=f"release {one.name}",
            ),
        )

    def do_job_cancel(self) -> None:
        ask_cancel(self)

    def do_dataset_shred(self) -> None:
        one = self._chosen()
        if one is not None:
            ask_shred(self.console, "datasets", one.object_id)


def classed(classification: str | None, *, held: bool = False, asked: str | None = None) -> Text:
    """A classification by word and colour; `held`, and how something stands that was `asked` about it, add a mark."""
    word = classification or "restricted"
    text = styled(word, WORDS.get(MOODS.get(word, "bad"), ""))
    text += Text(" ") + marked("warn", "HELD") if held else Text("")
    if asked is None:
        return text
    return text + Text(" ") + (marked("good", "APPROVED") if asked == "approved" else marked("wait", "ASKED"))


def _held(picture: Picture) -> set[str]:
    return {hold.object_id for hold in picture.holds if hold.released_at is None}


def _asked(picture: Picture) -> list[Approval]:
    """Approvals about datasets that wait or stand."""
    return [one for one in picture.approvals if one.kind == "Dataset" and one.state in OPEN]


PLACE = DataPlace
