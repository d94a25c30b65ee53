"""The Audit screen: the ledgers as they grow, page by page; when tree heads left, and who signed them last."""

from __future__ import annotations

import asyncio
from typing import Any

from console_world import WIDE, console, until
from recorded import NOW, Recorded, before

from cloister.api import LedgerEntry, LedgerMatches, LedgerWitness


class Growing(Recorded):
    """Two ledgers of so many entries; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = {"control": 500, "gateway": 3}
        self.asked: list[dict[str, Any]] = []

    def search_ledger(self, limit: int = 50, **wanted: Any) -> LedgerMatches:
        self.asked.append(wanted)
        ledger = wanted.get("ledger") or "control"
        end = wanted.get("before") or self.sizes[ledger]
        first = max(0, end - limit)
        entries = [
            LedgerEntry(
                index=number,
                time=before(seconds=1000 - number).isoformat(),
                actor=f"{ledger}-{number}",
                identified_by="SO_PEERCRED uid=1000",
                action="run.start",
            )
            for number in range(first, end)
        ]
        return LedgerMatches(entries=entries, more=first > 0, size=self.sizes[ledger], indexed=True)


def test_a_ledger_is_followed_paged_and_left_for_the_other() -> None:
    client: Any = Growing()

    async def walk() -> None:
        async with console(lambda: client, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("7")
            await until(app, lambda text: "control-499" in text and "\n control  time" in text)
            client.sizes["control"] = 501
            await until(app, lambda text: "control-500" in text)
            await pilot.press("b")
            await until(app, lambda text: "control-300" in text and "control-301" not in text)
            client.sizes["control"] = 502
            await pilot.press("n")
            await until(app, lambda text: "control-501" in text)
            await pilot.press("g")
            await until(app, lambda text: "gateway-2" in text and "control-501" not in text)
            await until(app, lambda text: "\n gateway  time" in text)
            await pilot.press("b")
            await until(app, lambda text: "These are the oldest" in text)

    asyncio.run(walk())
    client.close()


def test_what_is_searched_for_is_said_beside_what_was_found() -> None:
    client: Any = Growing()

    async def walk() -> None:
        async with console(lambda: client, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("7")
            await until(app, lambda text: "control-499" in text)
            await pilot.press("f", "tab", *"run", "pagedown", "enter")
            await until(
                app, lambda text: "Only what fits of the control ledger: action run. Esc shows all." in text
            )
            await until(app, lambda _: client.asked[-1].get("action") == "run")
            await pilot.press("escape")
            await until(app, lambda _: "action" not in client.asked[-1])

    asyncio.run(walk())
    client.close()


def test_an_authority_that_was_away_from_the_start_is_said() -> None:
    client: Any = Growing()

    async def walk() -> None:
        async with console(lambda: client, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            client.away = True
            client.close()
            await pilot.press("r")
            await until(app, lambda text: "AUTHORITY AWAY" in text)
            await pilot.press("7")
            text = await until(app, lambda text: "The authority is away, nothing was read yet." in text)
            assert "Reading" not in text

    asyncio.run(walk())


def test_witnesses_are_named_with_when_they_last_signed() -> None:
    ledger = Recorded().answers["status"].ledger
    witnesses = [
        LedgerWitness(
            ledger="control",
            left_at=before(hours=3),
            left_size=800,
            cosigned_at=before(minutes=90),
            cosigned_size=790,
            cosigned_by="witness.example",
            command="cloister audit carry",
        ),
        LedgerWitness(ledger="gateway", overdue_since=before(days=2), command="cloister witness ask"),
    ]
    client: Any = Recorded(ledger=ledger.model_copy(update={"witnesses": witnesses, "witnessed": False}))

    async def walk() -> None:
        async with console(lambda: client, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "▲ UNWITNESSED" in text)
            await pilot.press("7", "v")
            text = await until(app, lambda text: "Tree heads and witnesses" in text)
            for wanted in (
                "by witness.example, 790 entries",
                "800 entries",
                "● witnessed",
                "▲ UNWITNESSED",
                "never",
            ):
                assert wanted in text, wanted
            assert "cloister witness ask" in text

    asyncio.run(walk())
    client.close()
