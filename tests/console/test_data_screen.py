"""What is in a dataset: its report in numbers, rows revealed and gone again, another dataset made of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from datetime import timedelta
from operator import is_
from typing import Any

import pytest
from console_world import WIDE, console, shown, type_in, until
from recorded import LOOKED, NOW, REPORT, Recorded, job
from rich.text import Text
from textual.content import Content

from cloister.api import (
    DeriveRequest,
    Hold,
    HoldRequest,
    Job,
    LengthFigures,
    Progress,
    RenderRequest,
    ReportRequest,
    RowsConfig,
)
from cloister.console.reporting import STEPS, told
from cloister.console.revealing import LONGEST, MOST, Revealed, as_learnt, numbers, spelled
from cloister.console.screens.data import classed
from cloister.errors import InvalidInput, NotFound
from cloister.shown import visible


def texts_with(word: str) -> list[Text | Content]:
    """What was made for the screen with that word in it and is still kept."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, Text | Content) and word in one.plain]


class Noting(Recorded):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def report(self, dataset: str, request: ReportRequest) -> Job:
        self.asked.append(request)
        return LOOKED

    def derive(self, dataset: str, request: DeriveRequest) -> Job:
        self.asked.append(request)
        return LOOKED

    def render_row(self, dataset: str, request: RenderRequest, output: int) -> Job:
        self.asked.append(request)
        return super().render_row(dataset, request, output)

    def show_rows(self, dataset: str, request: RowsConfig, output: int) -> Job:
        self.asked.append(request)
        return super().show_rows(dataset, request, output)


def test_a_report_is_shown_whole() -> None:
    text = told(REPORT).plain
    for wanted in (
        "1,500: 1,361 to train on, 139 held out",
        "half of them at most 380",
        "to 512",
        "Balance of 3 labels",
        "▲ 12",
        "(3 inputs)",
        "● 0",
        "row 17, 230",
        "longer than 1024 tokens",
        "31 of 1,500 rows",
        "question 30, answer 2",
    ):
        assert wanted in text, wanted
    assert text.count("█" * 30) == 2, "the longest bar of each histogram is full"


def test_a_long_histogram_keeps_its_rows() -> None:
    histogram = [(n, 1) for n in range(1, 101)]
    lengths = LengthFigures(
        total=5050, shortest=1, longest=100, median=50, p95=95, p99=99, histogram=histogram
    )
    lines = told(REPORT.model_copy(update={"characters": lengths})).plain.splitlines()
    bars = [line for line in lines if line.startswith("to ")]
    assert len(bars) == STEPS and sum(int(line.split()[-1]) for line in bars) == 100
    assert bars[-1].split()[1] == "100"


def test_rows_are_named_by_ranges() -> None:
    assert numbers("0-2,17") == (0, 1, 2, 17)
    assert len(numbers(f"0-{MOST - 1}")) == MOST
    for wrong in ("", "a", "3-1", f"0-{MOST}", "1,,2", "-1", "0-9999999999999999", "0-999999999999999"):
        with pytest.raises(InvalidInput):
            numbers(wrong)


def test_the_newest_report_is_one_key_away_and_so_is_a_new_one() -> None:
    client = Noting()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            await pilot.press("o")
            await until(app, lambda text: "Report of claims" in text and "Balance" in text)
            await pilot.press("escape", "m")
            await until(app, lambda text: "Read-only" in text)
            await pilot.press("w", "m")
            await until(app, lambda text: "in numbers" in text)
            await pilot.press("enter", "down", "enter", "tab", "tab", "enter")
            await until(app, lambda text: "Report of claims" in text)

    asyncio.run(walk())
    client.close()
    (request,) = client.asked
    assert request.config.personal and request.base is None


def test_a_dataset_that_nobody_looked_at_says_how_to() -> None:
    client = Recorded()

    def none(_: str) -> Any:
        raise NotFound("nobody has looked at it yet")

    client.last_report = none  # type: ignore[attr-defined]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            await pilot.press("o")
            await until(app, lambda text: "nobody has looked at it yet: m looks" in text)

    asyncio.run(walk())
    client.close()


def test_rows_are_revealed_by_name_and_leave_nothing() -> None:
    client = Noting()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            await pilot.press("v")
            await until(app, lambda text: "Reveal rows" in text)
            await pilot.press("tab")
            await type_in(pilot, "0-1")
            await pilot.press("enter")
            asked = await until(app, lambda text: "go on the ledger" in text)
            assert "rows 0-1 of claims, confidential" in asked and not client.asked
            await type_in(pilot, "claims")
            await pilot.press("enter")
            rows = await until(app, lambda text: "second line" in text)
            assert "canary \\x1b[31m number 1" in rows and "label: theft" in rows
            assert all(line == visible(line) for line in rows.splitlines())
            assert isinstance(app.screen, Revealed)
            gone = weakref.ref(app.screen)
            await pilot.press("escape")
            await until(app, lambda text: "canary" not in text)
            await pilot.press("down")
            await until(app, lambda _: not texts_with("canary"))
            assert gone() is None or "canary" not in gone()._text.plain  # type: ignore[union-attr]
            assert "canary" not in shown(app)

    asyncio.run(walk())
    client.close()
    assert [request.rows for request in client.asked] == [(0, 1)]


def test_a_row_as_a_run_would_learn_it_is_shown_on_the_record_and_gone_again() -> None:
    client = Noting()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            await pilot.press("t")
            await until(app, lambda text: "A row as a run would learn it" in text)
            await pilot.press("backspace", "3", "tab", "tab", "tab", "tab", "8", "enter")
            asked = await until(app, lambda text: "go on the ledger" in text)
            assert "row 3 of claims, confidential" in asked and not client.asked
            await type_in(pilot, "claims")
            await pilot.press("enter")
            told = await until(app, lambda text: "canary" in text)
            assert "⟦theft<|end|>⟧" in told and "\\u27e6mine\\u27e7" in told, "the marks are ours alone"
            assert "── row 3 · train · 40 tokens, 2 learnt · template auto · loss on assistant" in told
            assert "│ ── row 9" in told, "no line of the row passes for one of ours"
            assert "longer than 8 tokens" in told
            assert all(line == visible(line) for line in told.splitlines())
            await pilot.press("escape")
            await until(app, lambda text: "canary" not in text)
            await until(app, lambda _: not texts_with("canary"))

    asyncio.run(walk())
    client.close()
    (request,) = client.asked
    assert (request.config.row, request.config.max_length) == (3, 8) and request.base


def test_a_row_that_is_too_long_for_a_dialog_says_so() -> None:
    found = {
        "row": 0, "side": "train", "tokens": 9, "supervised": 9, "template": None, "loss_on": "all", "fits": True,
        "windows": 1, "max_length": None, "spans": [{"text": "x" * (LONGEST + 5), "supervised": True}],
    }  # fmt: skip
    text = as_learnt(found).plain
    assert text.count("x") < LONGEST + 5 and f"the first {LONGEST:,} are shown." in text


def test_a_wrong_name_reveals_nothing() -> None:
    client = Noting()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            await pilot.press("v")
            await until(app, lambda text: "Reveal rows" in text)
            await pilot.press("tab", "enter")
            await until(app, lambda text: "go on the ledger" in text)
            await pilot.press("enter")
            await until(app, lambda text: "that is not its name" in text)
            await pilot.press("escape")
            await until(app, lambda text: "Nothing was changed" in text)

    asyncio.run(walk())
    client.close()
    assert not client.asked


def test_another_dataset_is_made_of_one() -> None:
    client = Noting()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2", "w")
            await until(app, lambda text: "letters" in text)
            await pilot.press("n")
            await until(app, lambda text: "Make a dataset" in text)
            await type_in(pilot, "claims-safe")
            await pilot.press("enter", "enter", "down", "down", "enter", "tab", "enter", "down", "enter")
            await pilot.press("tab", "tab", "5", "0", "enter")
            await until(app, lambda text: "claims-safe is made of claims" in text)

    asyncio.run(walk())
    client.close()
    (request,) = client.asked
    config = request.config
    assert (config.personal, config.dedupe, config.sample, config.side) == ("replace", "exact", 50, "all")


def test_a_legal_hold_is_placed_with_its_reason_and_ended_by_the_datasets_name() -> None:
    client: Any = Noting()
    hold = client.answers["holds"][0]

    def place(reference: str, request: HoldRequest) -> Hold:
        client.asked.append((reference, request.reason))
        return hold  # type: ignore[no-any-return]

    client.hold = place
    client.release = lambda reference: client.asked.append(("release", reference))

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2", "w")
            await until(app, lambda text: "letters" in text and "ARMED" in text)
            await pilot.press("e")
            await until(app, lambda text: "claims is not held" in text)
            await pilot.press("h")
            await until(app, lambda text: "Place a legal hold" in text)
            await pilot.press("enter")
            await until(app, lambda text: "Reason: is needed" in text)
            await pilot.press(*"suit", "enter")
            await until(app, lambda _: client.asked)
            await pilot.press("down", "e")
            await until(app, lambda text: "case 4711" in text and "Type letters" in text)
            await pilot.press(*"letters", "enter")
            await until(app, lambda _: len(client.asked) == 2)

    asyncio.run(walk())
    client.close()
    assert client.asked == [("ds-cccccccccccc", "suit"), ("release", "ds-llllllllllll")]


def test_what_is_asked_about_a_dataset_stands_with_it() -> None:
    """A request that waits marks its line; opened, it says who asked, and for what."""
    client = Recorded()
    asked = client.answers["approvals"][0].model_copy(
        update={
            "kind": "Dataset",
            "thing": "ds-cccccccccccc",
            "action": "dataset.declassify",
            "name": "claims",
        }
    )
    client.answers["approvals"] = [*client.answers["approvals"], asked]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            text = await until(
                app, lambda text: "dataset.declassify, asked by" in text and "omar, decided" in text
            )
            marked = [line for line in text.splitlines() if " ASKED" in line]
            assert len(marked) == 1 and "claims" in marked[0]
            await pilot.press("down")
            await until(app, lambda text: "case 4711" in text and "dataset.declassify" not in text)

    asyncio.run(walk())
    client.close()


@pytest.mark.parametrize(
    ("asked", "mark"), [("pending", "○ ASKED"), ("approved", "● APPROVED"), (None, "confidential")]
)
def test_a_dataset_says_how_what_was_asked_about_it_stands(asked: str | None, mark: str) -> None:
    assert classed("confidential", asked=asked).plain.endswith(mark)


def test_a_mark_beside_a_class_keeps_its_own_look() -> None:
    text = classed("restricted", held=True)
    red = {text.plain[span.start : span.end] for span in text.spans if "red" in str(span.style)}
    assert not text.style and red == {"restricted"}


def test_work_on_data_shows_how_far_it_is_and_what_is_left() -> None:
    client = Recorded()
    progress = Progress(stage="read", done=30, total=120, remaining_s=95)
    client.answers["jobs"] = [job("i", "import", "running", progress=progress), job("k", "import", "done")]

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            text = await until(app, lambda text: "► running" in text)
            (line,) = [line for line in text.splitlines() if " import " in line and "running" in line]
            assert "read 25%" in line and "1m35s" in line
            await pilot.press("home", "enter")
            await until(app, lambda text: "read 30/120" in text and "1m35s left" in text)

    asyncio.run(walk())
    client.close()


def test_only_lines_of_what_changed_are_made_anew() -> None:
    client = Recorded()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text)
            place: Any = app.screen
            before = list(place._all)
            read_again = tuple(one.model_copy(deep=True) for one in app.picture.datasets)
            app.picture = replace(app.picture, datasets=read_again)
            app.show()
            assert len(before) > 1 and all(map(is_, place._all, before))
            other = read_again[0].model_copy(update={"classification": "public"})
            app.picture = replace(app.picture, datasets=(other, *read_again[1:]))
            app.show()
            changed = [new for new, old in zip(place._all, before, strict=True) if new is not old]
            assert [line.copied for line in changed] == [other.object_id]
            assert "public" in changed[0].cells[2].plain
            app.clock = lambda: NOW + timedelta(days=400)
            app.show()
            assert not any(map(is_, place._all, before))

    asyncio.run(walk())
    client.close()


def test_every_sort_of_row_is_spelled_out() -> None:
    lines = [
        {"row": 0, "side": "train", "text": "plain\x07", "groups": {"site": "north\u202e"}},
        {
            "row": 1,
            "side": "holdout",
            "tools": "[]",
            "messages": [
                {
                    "role": "assistant\x1b",
                    "content": "",
                    "tool_calls": [{"name": "f", "arguments": "{\x00}"}],
                }
            ],
        },
        {"number": 1, "label": "[red]x", "rows": 3},
    ]
    text = spelled(lines).plain
    assert all(line == visible(line) for line in text.splitlines())
    for wanted in ("plain\\x07", "north\\u202e", "f({\\x00})", "label 1: [red]x (3 rows)", "tools     │ []"):
        assert wanted in text
