"""The longest names that the appliance lets be, at 80 columns: what matters beside them stays in sight."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from console_world import WIDE, console, still, until
from recorded import NOW, Recorded
from rich.console import Console

from cloister.console.actions import PLACES
from cloister.console.comparing import side_by_side
from cloister.console.system_parts import ABOUT

ONE, OTHER = (f"claims-of-the-branch-in-frankfurt-{n}-for-the-nightly-batch-desk" for n in ("01", "02"))
ACCOUNT = "a-person-with-a-rather-long-name"


def long_named() -> Recorded:
    """Twice the same everywhere, but for two digits within 63 characters."""
    client = Recorded()
    for shelf in ("datasets", "bases", "models", "runs", "deployments", "clients"):
        client.answers[shelf] = [
            one.model_copy(update={"name": name, "created_by": ACCOUNT})
            for one, name in zip(client.answers[shelf], (ONE, OTHER, "third"), strict=False)
        ]
    request = client.answers["approvals"][0]
    client.answers["approvals"] = [
        request.model_copy(
            update={"name": name, "approval_id": f"ap-{n}aaaaaaaaaaa", "requested_by": ACCOUNT}
        )
        for n, name in enumerate((ONE, OTHER))
    ]
    first, second, third = client.answers["runs"]
    waits = third.train_job.model_copy(update={"waits_for": f"import {ONE}"})
    client.answers["runs"] = [first, second, third.model_copy(update={"train_job": waits})]
    live, queued = client.answers["jobs"]
    client.answers["jobs"] = [live, queued.model_copy(update={"verb": "merge", "requested_by": ACCOUNT})]
    client.answers["clients"] = [
        one.model_copy(update={"deployments": [ONE, OTHER]}) for one in client.answers["clients"]
    ]
    client.entries = [
        one.model_copy(update={"actor": f"{ACCOUNT}-of-all-{one.index}", "objects": one.objects * 3})
        for one in client.entries
    ]
    return client


SHORT = r"cla[a-z-]*…[a-z-]*0[12][a-z-]*…?"
"""A name, where there is no room for all of it; the two digits tell which."""
LINES = {
    "overview": [r"train cl\S+…\S+ +► running +train 120/400", r"merge third +○ queued"],
    "data": [rf"{SHORT} +1 +confidential +1,500 +139 +16\.0 MiB", rf"{SHORT} +1 +restricted ▲ HELD +90,210"],
    "runs": [
        rf"{SHORT} +► running +train 120/400 +33m00s +0\.52",
        r"third +○ queued +number 1.* +in 33m20s +-",
        rf"{SHORT} +● done +0\.0087",
    ],
    "models": [
        rf" {SHORT} +deployment\.start +○ pending +30m",
        r"a merge +job +○ queued",
        rf"├─ {SHORT} +run +● done +93\.5%",
        rf"├─ {SHORT} +run +► running",
    ],
    "serving": [rf"{SHORT} +● ready +\S+ +0\.5 +0\.7 s +20 +25% +cpu +20h", rf"{SHORT} +■ stopped"],
    "clients": [
        rf"{SHORT} +▲ ends soon +\S+ +150 +2s +2026-03-16 03:00",
        rf"{SHORT} +■ revoked +\S+ +- +- +-",
    ],
    "audit": [
        r"814 +03-04 02:52:00 +a\S+…\S*4 +dataset\.shred +deny +ds-cccccccccccc",
        r"815 +03-04 02:53:00 +a\S+…\S*5 +client\.issue +allow +cl-dddddddddddd",
    ],
}
"""What each table shows of its lines at 80 columns."""


@pytest.mark.parametrize("place", LINES)
def test_a_long_name_hides_neither_a_state_nor_another_name(place: str) -> None:
    client = long_named()

    async def steps() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press(str(PLACES.index(place) + 1))
            for line in LINES[place]:
                await until(app, lambda text, line=line: re.search(line, text))
            if place in ("overview", "audit"):
                return
            await pilot.press("home", "enter")
            await until(app, lambda text: ONE in text or OTHER in text)

    try:
        asyncio.run(steps())
    finally:
        client.close()


def test_where_there_is_room_a_name_has_it() -> None:
    """And gives it back when there is none."""
    client = long_named()
    client.answers["clients"] = [
        one.model_copy(update={"deployments": [], "created_by": "omar"}) for one in client.answers["clients"]
    ]

    async def steps() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("6")
            await until(app, lambda text: re.search(rf" {SHORT} +▲ ends soon", text))
            await pilot.resize_terminal(200, 24)
            await until(app, lambda text: f"{OTHER}  ■ revoked" in text)
            await pilot.resize_terminal(*WIDE)
            await still(app, pilot)
            await until(app, lambda text: re.search(rf"{SHORT} +■ revoked +all", text))

    try:
        asyncio.run(steps())
    finally:
        client.close()


def test_two_datasets_are_told_apart_where_one_is_chosen() -> None:
    client = long_named()

    async def steps() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("3", "w")
            await until(app, lambda text: "Armed" in text and "third" in text)
            await pilot.press("n")
            await until(app, lambda text: re.search(rf"Dataset +{SHORT}", text))
            await pilot.press("tab", "tab", "enter")
            listed = r"│cla\S+…\S*{}\S* +│"
            await until(app, lambda text: all(re.search(listed.format(n), text) for n in ("01", "02")))

    try:
        asyncio.run(steps())
    finally:
        client.close()


def test_two_runs_side_by_side_are_told_apart() -> None:
    first, second, _ = long_named().answers["runs"]
    settings = second.train.model_copy(update={"seed": 7})
    lines = side_by_side(first, second.model_copy(update={"train": settings})).plain.splitlines()
    heading = next(line for line in lines if "…" in line)
    assert re.search(rf"{SHORT} +{SHORT}", heading) and "01" in heading and "02" in heading
    assert lines[0].startswith(f"run     {ONE}, started") and lines[1].startswith(f"beside  {OTHER}, started")
    assert max(map(len, lines[2:])) <= 76


def test_two_runs_side_by_side_say_which_base_and_rows_they_have() -> None:
    first = long_named().answers["runs"][0]
    names = {first.base: "a-base-model-" * 4, "bm-2": "another-base-model-" * 3, "ds-2": "held-out"}
    second = first.model_copy(update={"base": "bm-2", "holdout": "ds-2"})
    lines = side_by_side(first, second, lambda known: names.get(known, known)).plain.splitlines()
    (base,) = [line for line in lines if line.lstrip().startswith("base")]
    assert "a-ba" in base and "anot" in base and max(map(len, lines[2:])) <= 76
    assert any(re.search("hold-out +- +held-out", line) for line in lines)
    assert "Only runs on the same hold-out compare." in "\n".join(lines)
    alike = side_by_side(first, first.model_copy(update={"run_id": "rn-2"})).plain
    assert "base " not in alike and "Only runs" not in alike
    others_rows = second.model_copy(update={"dataset": "ds-3"})
    assert "Only runs" not in side_by_side(second, others_rows).plain, "they were measured on the same rows"


def test_a_long_path_hides_no_backups_state() -> None:
    client = Recorded()
    backup = client.answers["backups"][0].model_copy(update={"where": "/mnt/" + "a-long-folder/" * 12})
    from cloister.console.picture import Picture

    picture = Picture(backups=(backup,), read=frozenset(["backups"]))
    wrapped = ABOUT["backups"](picture).wrap(Console(), 78)
    assert all(word in wrapped[1].plain for word in ("bk-bbbbbbbbbbbb", "until 2026-", "32.0 MiB"))
