"""Was it worth it: the whole table of a run on the models screen, and the form that has it measured."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from console_world import console, until
from recorded import FULL, LOOKED, MEASURED, NOW, Recorded

from cloister.api import EvaluationRequest, Job, Run
from cloister.console.weighing import WIDTH, in_blocks, whole
from cloister.errors import CloisterError, NotFound


class Measured(Recorded):
    """The first run was measured whole; keeps what it was asked."""

    def __init__(self, full: Any = FULL) -> None:
        super().__init__()
        self.asked: list[tuple[str, EvaluationRequest]] = []
        first = self.answers["runs"][0]
        self.answers["runs"][0] = first.model_copy(update={"evaluation": MEASURED | {"full": full}})

    def run(self, reference: str) -> Run:
        return next(run for run in self.answers["runs"] if run.run_id == reference)

    def evaluate_run(self, reference: str, request: EvaluationRequest, descriptors: Any) -> Job:
        self.asked.append((reference, request))
        return LOOKED


def test_the_whole_table_fits_a_dialog() -> None:
    text = whole(Measured().run("rn-ffffffffffff")).plain
    for wanted in (
        "Fine-tuning beats few-shot prompting",
        "base, few-shot",
        "93.5% [89.5%, 97.5%]",
        "15.5 points [11.5, 19.5]",
        "1,800",
        "group of column 1",
        "arithmetic",
        "note: a group of 3 rows",
    ):
        assert wanted in text, wanted
    tables = [line for line in text.splitlines() if not line.startswith(("Fine", "note"))]
    assert max(map(len, tables)) <= WIDTH


def test_no_column_is_lost_in_blocks() -> None:
    heading = [f"column {n}" for n in range(9)]
    blocks = in_blocks(heading, [["x" * 12] * 9], width=40)
    assert len(blocks) == 4 and all(block.plain.startswith("column 0") for block in blocks)
    assert [sum(name in block.plain for block in blocks) for name in heading[1:]] == [1] * 8


def test_a_run_without_a_table_says_how_to_get_one() -> None:
    with pytest.raises(NotFound, match="e measures it"):
        whole(Recorded().answers["runs"][0])
    with pytest.raises(CloisterError, match="cannot be read"):
        whole(Measured({"table": {"lines": 3}}).run("rn-ffffffffffff"))


def test_the_table_is_shown_and_measured_by_keys() -> None:
    client = Measured()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("4")
            await until(app, lambda text: "small" in text)
            await pilot.press("t")
            await until(app, lambda text: "The cursor is on no run" in text)
            await pilot.press("slash", *"first", "enter", "t")
            await until(app, lambda text: "Was first worth it?" in text and "95% intervals" in text)
            await pilot.press("escape", "w", "e")
            await until(app, lambda text: "Measure a run" in text)
            await pilot.press("tab", "4", "enter", "enter", "5", "0", "enter")
            await until(app, lambda text: "Was first worth it?" in text)

    asyncio.run(walk())
    client.close()
    ((reference, request),) = client.asked
    table = request.config.table
    assert reference == "rn-ffffffffffff" and table is not None and request.larger is None
    assert (table.few_shot, table.retrieve, request.config.max_rows) == (4, 8, 50)
