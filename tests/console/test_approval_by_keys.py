"""Two people at two consoles, each under an account of the system: one asks, the other approves, the first goes on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from console_world import console, type_in, until
from recorded import Recorded
from rich.text import Text
from tests.appliance.role_accounts import as_account, made_accounts, needs_root, shared_appliance
from tests.conftest import PASSPHRASE

from cloister.api import DatasetImport, ImportConfig
from cloister.client import Client

Walk = Callable[[Any, Any], Awaitable[None]]


def at_the_console(account: str, socket: Path, walk: Walk) -> None:
    """Walk as that account, in a process of its own."""

    async def whole() -> None:
        async with console(socket) as (app, pilot):
            await walk(app, pilot)

    assert as_account(account, lambda: asyncio.run(whole())) is None


def bring_in(socket: Path) -> None:
    source = os.memfd_create("rows")
    for _ in range(20):
        os.write(source, json.dumps({"prompt": "a", "completion": "b"}).encode() + b"\n")
    os.lseek(source, 0, os.SEEK_SET)
    request = DatasetImport(
        name="letters", config=ImportConfig(source_name="rows.jsonl"), classification="internal"
    )
    with Client(socket) as client:
        client.finished_job(client.import_dataset(request, {"source": source}).job_id)


def load_all() -> None:
    """Whatever the console loads, loaded here: the accounts may not be able to read where it lies."""
    recorded: Any = Recorded()

    async def whole() -> None:
        async with console(lambda: recorded) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("2", "w")
            await until(app, lambda text: "letters" in text and "ARMED" in text)
            await pilot.press("c")
            await until(app, lambda text: "Classify a dataset" in text)
            await pilot.press("enter", "escape", "escape", "4")
            await until(app, lambda text: "small" in text)
            app.confirm("sure", Text("?"), "letters", "do it", lambda: None)
            await until(app, lambda text: "Type letters" in text)
        recorded.close()

    asyncio.run(whole())


async def ask(app: Any, pilot: Any) -> None:
    await pilot.press("2", "w")
    await until(app, lambda text: "internal" in text and "ARMED" in text)
    await pilot.press("c")
    await until(app, lambda text: "Classify a dataset" in text)
    await pilot.press("enter", "up", "enter", "tab", "enter")


@needs_root
@pytest.mark.slow
def test_one_asks_and_another_approves() -> None:
    with made_accounts() as accounts, shared_appliance() as shared:
        socket = shared.home.authority_socket
        load_all()
        as_account(accounts["admin"], lambda: Client(socket).initialise(PASSPHRASE))
        as_account(accounts["steward"], lambda: bring_in(socket))

        async def asked(app: Any, pilot: Any) -> None:
            await ask(app, pilot)
            await until(app, lambda text: "▲" in text and "approval of somebody else" in text)
            assert "internal" in await until(app, lambda text: "letters" in text)

        async def approve(app: Any, pilot: Any) -> None:
            await pilot.press("4", "w")
            await until(app, lambda text: "dataset.declassify" in text and "ARMED" in text)
            await pilot.press("a")
            shown = await until(app, lambda text: "Approve what somebody else asked for" in text)
            assert accounts["steward"][:12] in shown
            await type_in(pilot, "letters")
            await pilot.press("enter")
            await until(app, lambda text: "is approved" in text)

        async def done(app: Any, pilot: Any) -> None:
            await ask(app, pilot)
            await until(app, lambda text: "letters is public" in text)

        at_the_console(accounts["steward"], socket, asked)
        at_the_console(accounts["approver"], socket, approve)
        at_the_console(accounts["steward"], socket, done)
        did = [(entry.actor, entry.action, entry.decision) for entry in as_account_entries(accounts, socket)]
        assert (accounts["approver"], "approval.give") in [(who, what) for who, what, _ in did]


def as_account_entries(accounts: dict[str, str], socket: Path) -> list[Any]:
    from cloister.api import LedgerEntry

    raw = as_account(
        accounts["auditor"],
        lambda: [one.model_dump(mode="json") for one in Client(socket).entries(limit=1000)],
    )
    return [LedgerEntry.model_validate(one) for one in raw]
