"""Was a run worth it: its whole evaluation, every way of asking on the same rows, and the form that starts one.

The table's columns are those of `cloister.evaluation`, read in a worker's thread. It judges nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.asking import checked, ended, followed, given
from cloister.console.paint import grid, outside, stack, styled
from cloister.console.screens.dialogs import Field
from cloister.errors import CloisterError, NotFound
from cloister.shown import visible

if TYPE_CHECKING:
    from cloister.api import EvaluationRequest, Job, Run
    from cloister.client import Client
    from cloister.console.app import ConsoleApp

WIDTH = 72
"""Columns of text that a dialog has at 80×24."""
NO_LARGER = "none"
WHOLE_SET = "0"


def show_table(console: ConsoleApp, run_id: str, name: str) -> None:
    """The whole table of a run, where one was measured."""
    console.request(
        lambda client: whole(client.run(run_id)),
        lambda text: console.tell(f"Was {visible(name, limit=40)} worth it?", text),
        doing=f"evaluation of {name}",
        failed=lambda problem: console.say(problem, "warn"),
        quiet=True,
    )


def whole(run: Run) -> Text:
    """Verdict, lines with intervals, costs, groups and the general check. Errors: NotFound where none was measured."""
    import msgspec

    from cloister.evaluation import columns
    from cloister.evaluation import table as tables

    full = (run.evaluation or {}).get("full")
    if full is None:
        raise NotFound(f"the whole table of {run.name} was not measured yet: e measures it")
    try:
        table = tables.of(full["table"])
    except (msgspec.ValidationError, KeyError, TypeError):
        raise CloisterError(f"the table of {run.name} cannot be read") from None
    sentences = (full.get("verdict") or {}).get("sentences") or []
    return stack(
        *(outside(sentence, 600, "bold") for sentence in sentences),
        styled(f"On {table.rows:,} held-out rows, the same for every line; 95% intervals.", "dim"),
        *in_blocks(*columns.figures(table)),
        *in_blocks(*columns.effort(table)),
        *(block for group in columns.groups(table) for block in in_blocks(*group)),
        *in_blocks(*columns.general(table)),
        *(outside(f"note: {note}", 600) for note in full.get("notes") or ()),
    )


def in_blocks(heading: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[Text]:
    """The columns in as many tables as it takes to be no wider than that, the first column before each."""
    if not rows:
        return []
    every = [[visible(cell, limit=WIDTH // 2) for cell in row] for row in (heading, *rows)]
    widths = [max(len(row[at]) for row in every) for at in range(len(heading))]
    blocks: list[list[int]] = [[0]]
    for at in range(1, len(heading)):
        taken = sum(widths[one] + 2 for one in blocks[-1])
        if len(blocks[-1]) > 1 and taken + widths[at] > width:
            blocks.append([0])
        blocks[-1].append(at)
    return [
        grid([[row[at] for at in block] for row in every[1:]], [every[0][at] for at in block])
        for block in blocks
    ]


def ask_evaluation(console: ConsoleApp, run: Run) -> None:
    """Measure a run beside prompting and retrieval, and show what came of it."""
    from cloister.api import EvaluateConfig, EvaluationRequest, TableConfig

    bases = tuple(dict.fromkeys(base.name for base in console.picture.bases))

    def go_on(values: dict[str, str]) -> None:
        def make() -> EvaluationRequest:
            table = checked(TableConfig, few_shot=int(values["shots"]), retrieve=int(values["retrieved"]))
            config = checked(EvaluateConfig, max_rows=int(values["rows"]), table=table.model_dump())
            larger = None if values["larger"] == NO_LARGER else values["larger"]
            return checked(EvaluationRequest, config=config.model_dump(), larger=larger)

        def done(job: Job) -> None:
            if ended(console, job, f"{run.name} is measured."):
                show_table(console, run.run_id, run.name)

        request = given(console, make)
        if request is not None:
            console.say(f"Measuring {run.name} … Leaving the console leaves it running.", "info")
            console.request(
                lambda client: _measured(console, client, run.run_id, request),
                done,
                doing=f"measure {run.name}",
            )

    console.ask_form(
        "Was it worth it? Measure a run",
        [
            Field("larger", "A larger base", choices=(NO_LARGER, *bases), help="untuned, to set against it"),
            Field(
                "shots", "Examples", "8", help="training rows before a question; 0: no such line", number=int
            ),
            Field(
                "retrieved",
                "Retrieved",
                "8",
                help="the nearest rows before a question; 0: no such line",
                number=int,
            ),
            Field("rows", "Rows", WHOLE_SET, help="held-out rows to measure on; 0: all of them", number=int),
        ],
        go_on,
        note=outside(run.name, style="bold"),
    )


def _measured(console: ConsoleApp, client: Client, run_id: str, request: EvaluationRequest) -> Job:
    return followed(client, client.evaluate_run(run_id, request, {}), console.post_message)
