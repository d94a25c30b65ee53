"""Looking into a dataset: its report, its rows, which is recorded, one as a run would learn it, and another dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from rich.text import Text

from cloister.console.asking import checked, ended, followed, given
from cloister.console.paint import outside, stack, state
from cloister.console.reporting import told
from cloister.console.revealing import Revealed, as_learnt, numbers, render_of, rows_of, spelled
from cloister.console.screens.dialogs import Field
from cloister.shown import visible

if TYPE_CHECKING:
    from cloister.api import DatasetReport, Job, StoredObject
    from cloister.console.app import ConsoleApp

NO_BASE = "none: characters only"
WITH, WITHOUT = "look for it, which takes longer", "leave it out"
PERSONAL = {"as it is": None, "redact: a placeholder": "redact", "replace: made-up values": "replace"}
REPEATS = {"keep": None, "leave out equal ones": "exact", "leave out near ones too": "near"}


def show_report(console: ConsoleApp, one: StoredObject) -> None:
    """The newest report, if there is one."""
    console.request(
        lambda client: client.last_report(one.object_id),
        lambda found: tell_report(console, one.name, found),
        doing=f"report of {one.name}",
        failed=lambda problem: console.say(f"{problem}: m looks at the dataset now.", "warn"),
        quiet=True,
    )


def tell_report(console: ConsoleApp, name: str, found: DatasetReport) -> None:
    console.tell(f"Report of {visible(name, limit=60)}", told(found))


def ask_report(console: ConsoleApp, one: StoredObject) -> None:
    """Have a worker look at the dataset, and show what it found."""
    from cloister.api import DatasetReport, ReportConfig, ReportRequest

    bases = tuple(dict.fromkeys(base.name for base in console.picture.bases))

    def go_on(values: dict[str, str]) -> None:
        def make() -> ReportRequest:
            base = None if values["base"] == NO_BASE else values["base"]
            longest = int(values["length"]) if values["length"] and base else None
            config = checked(ReportConfig, personal=values["personal"] == WITH, max_length=longest)
            return checked(ReportRequest, config=config, base=base)

        def found(job: Job) -> None:
            if ended(console, job, f"{one.name} was looked at."):
                tell_report(console, one.name, DatasetReport.model_validate(job.result))

        request = given(console, make)
        if request is not None:
            console.say(f"Looking at {one.name} …", "info")
            console.request(
                lambda client: followed(client, client.report(one.object_id, request), console.post_message),
                found,
                doing=f"look at {one.name}",
            )

    console.ask_form(
        "Look at a dataset, in numbers",
        [
            Field("personal", "Personal data", choices=(WITHOUT, WITH)),
            Field("base", "Tokens of", choices=(NO_BASE, *bases), help="its tokenizer counts"),
            Field(
                "length",
                "Longest row",
                help="in tokens: counts those that are longer; may stay empty",
                number=int,
            ),
        ],
        go_on,
        note=outside(one.name, style="bold"),
    )


def ask_rows(console: ConsoleApp, one: StoredObject) -> None:
    """Which rows; then, said plainly that it is recorded, the name; then the rows, until Esc."""
    from cloister.api import RowsConfig

    def go_on(values: dict[str, str]) -> None:
        request = given(
            console,
            lambda: checked(RowsConfig, rows=numbers(values["rows"]), labels=values["labels"] == "yes"),
        )
        if request is None:
            return
        console.confirm(
            f"Reveal rows of {visible(one.name, limit=60)}",
            stack(
                outside(f"rows {values['rows']} of {one.name}, {one.classification or 'restricted'}"),
                state("recorded", "warn") + Text(": your account and these rows' numbers go on the ledger."),
                Text("What is shown passes through your terminal, and whatever records it. Esc ends it."),
            ),
            one.name,
            "see them",
            lambda: console.request(
                lambda client: rows_of(client, one.object_id, request),
                lambda lines: reveal(console, one.name, lines),
                doing=f"reveal rows of {one.name}",
                quiet=True,
            ),
        )

    console.ask_form(
        "Reveal rows",
        [
            Field("labels", "Names of the labels too", choices=("no", "yes")),
            Field("rows", "Rows", "0-4", help="numbers from 0, such as 0-4,17; 100 at most", needed=True),
        ],
        go_on,
        note=outside(one.name, style="bold"),
    )


def ask_render(console: ConsoleApp, one: StoredObject) -> None:
    """Which row, and how a run would render it; then as rows are revealed: said to be recorded, by name, until Esc."""
    from cloister.api import LossOn, RenderConfig, RenderRequest, TemplateName

    bases = tuple(dict.fromkeys(base.name for base in console.picture.bases))
    if not bases:
        console.say("A base model's tokenizer renders, and there is none yet: 4 brings one in.", "warn")
        return

    def go_on(values: dict[str, str]) -> None:
        def make() -> RenderRequest:
            longest = int(values["length"]) if values["length"] else None
            config = checked(
                RenderConfig,
                row=int(values["row"]),
                template=values["template"],
                loss_on=values["loss"],
                max_length=longest,
            )
            return checked(RenderRequest, base=values["base"], config=config)

        request = given(console, make)
        if request is None:
            return
        console.confirm(
            f"Reveal a row of {visible(one.name, limit=60)} as a run would learn it",
            stack(
                outside(f"row {request.config.row} of {one.name}, {one.classification or 'restricted'}"),
                state("recorded", "warn") + Text(": your account and this row's number go on the ledger."),
                Text("What is shown passes through your terminal, and whatever records it. Esc ends it."),
            ),
            one.name,
            "see it",
            lambda: console.request(
                lambda client: render_of(client, one.object_id, request),
                lambda found: console.push_screen(
                    Revealed(f"A row of {visible(one.name, limit=60)}, as learnt: recorded", as_learnt(found))
                ),
                doing=f"render a row of {one.name}",
                quiet=True,
            ),
        )

    console.ask_form(
        "A row as a run would learn it",
        [
            Field("row", "Row", "0", help="its number, from 0", needed=True, number=int),
            Field("base", "Base model", choices=bases, help="its tokenizer renders"),
            Field("template", "Template", choices=get_args(TemplateName), help="auto, model: the base's own"),
            Field("loss", "Learnt is", choices=get_args(LossOn), help="every answer, the last, or all"),
            Field(
                "length",
                "Longest row",
                help="in tokens: tells whether it is longer; may stay empty",
                number=int,
            ),
        ],
        go_on,
        note=outside(one.name, style="bold"),
    )


def reveal(console: ConsoleApp, name: str, lines: list[dict[str, Any]]) -> None:
    console.push_screen(Revealed(f"Rows of {visible(name, limit=60)}: recorded", spelled(lines)))


def ask_derive(console: ConsoleApp, one: StoredObject) -> None:
    """A new dataset: fewer rows, no repeats, no personal data."""
    from cloister.api import DeriveConfig, DeriveRequest

    def go_on(values: dict[str, str]) -> None:
        def make() -> DeriveRequest:
            config = checked(
                DeriveConfig,
                side=values["side"],
                personal=PERSONAL[values["personal"]],
                dedupe=REPEATS[values["repeats"]],
                sample=int(values["sample"]) if values["sample"] else None,
            )
            return checked(DeriveRequest, name=values["name"], config=config)

        request = given(console, make)
        if request is not None:
            console.say(f"Making {request.name} of {one.name} …", "info")
            console.request(
                lambda client: followed(client, client.derive(one.object_id, request), console.post_message),
                lambda job: ended(console, job, f"{request.name} is made of {one.name}."),
                doing=f"derive {request.name}",
            )

    console.ask_form(
        "Make a dataset of this one",
        [
            Field("name", "Name", help="of the new one: a-z 0-9 . _ -", needed=True),
            Field("personal", "Personal data", choices=tuple(PERSONAL)),
            Field("repeats", "Repeats", choices=tuple(REPEATS)),
            Field("side", "Rows", choices=("all", "train", "holdout")),
            Field("sample", "Draw only", help="so many rows; may stay empty", number=int),
        ],
        go_on,
        note=outside(f"{one.name}: shredding it will take the new one along", style="bold"),
    )
