"""Requests by key: sent twice they are done once, also when the authority was killed in between."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from tests.appliance.role_accounts import GROUP, as_account, made_accounts, needs_root, run, shared_appliance
from tests.conftest import PASSPHRASE, Appliance, import_rows

from cloister import embedded
from cloister.api import ONCE_PATHS, HoldRequest
from cloister.appliance.authority import Authority
from cloister.appliance.http import create_app
from cloister.client import Client
from cloister.home import Home
from cloister.policy import Settings

ROWS: list[dict[str, object]] = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]}
    for n in range(8)
]


@pytest.fixture(scope="module")
def filled(appliance: Appliance) -> Appliance:
    import_rows(appliance.client, "notes", ROWS)
    return appliance


@pytest.fixture
def raw(filled: Appliance) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(filled.home.authority_socket))
    with httpx.Client(transport=transport, base_url="http://authority", timeout=60) as client:
        yield client


def hold(
    raw: httpx.Client, key: str, reason: str = "a court asked", path: str = "notes/hold"
) -> httpx.Response:
    return raw.post(f"/v1/datasets/{path}", json={"reason": reason}, headers={"idempotency-key": key})


def holds(appliance: Appliance) -> int:
    return len(appliance.client.holds())


def test_sent_twice_it_is_done_once(filled: Appliance, raw: httpx.Client) -> None:
    before = holds(filled)
    first, second = hold(raw, "key-number-1"), hold(raw, "key-number-1")
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json() and second.headers["idempotent-replay"] == "true"
    assert "idempotent-replay" not in first.headers
    assert holds(filled) == before + 1
    assert hold(raw, "key-number-2").json()["hold_id"] != first.json()["hold_id"]


def test_a_key_is_of_one_request(raw: httpx.Client, filled: Appliance) -> None:
    hold(raw, "key-number-3")
    before = holds(filled)
    for other in (
        hold(raw, "key-number-3", "another reason"),
        hold(raw, "key-number-3", path="notes/release"),
    ):
        assert other.status_code == 409 and "another request's" in other.json()["detail"]
    assert holds(filled) == before


def test_what_was_refused_may_be_tried_again(raw: httpx.Client, filled: Appliance) -> None:
    assert hold(raw, "key-number-4", path="nothing/hold").status_code == 404
    assert hold(raw, "key-number-4", path="nothing/hold").status_code == 404
    assert hold(raw, "key-number-4").status_code == 201


@pytest.mark.parametrize("key", ["short", "a" * 65, "with space", 'quote"quote"', "../../../../x"])
def test_keys_that_are_none(raw: httpx.Client, key: str) -> None:
    assert hold(raw, key).status_code == 422


def test_what_holds_a_secret_takes_no_key(raw: httpx.Client) -> None:
    for path in ("clients", "datasets", "unlock", "slots", "backups", "audit/reveal", "gateway/hello"):
        answer = raw.post(f"/v1/{path}", json={}, headers={"idempotency-key": "key-number-5"})
        assert answer.status_code == 422 and "takes no idempotency key" in answer.json()["detail"]


def test_the_pattern_names_routes_that_there_are(tmp_path: Any) -> None:
    home = Home(tmp_path / "h")
    home.make()
    routes = [
        route for route in create_app(Authority(home, Settings())).routes if isinstance(route, APIRoute)
    ]
    posts = {re.sub(r"\{[^}]*\}", "x", route.path) for route in routes if "POST" in route.methods}
    posts |= {path.replace("x/x/shred", f"{kind}/x/shred") for path in posts for kind in ("runs", "models")}
    taken = {path for path in posts if re.fullmatch(ONCE_PATHS, path)}
    assert len(taken) >= 20
    verbs = set(re.findall(r"[a-z]+", ONCE_PATHS.split("[^/]+/")[1]))
    assert verbs <= {path.rsplit("/", 1)[1] for path in taken}


def test_at_once_it_is_done_once(filled: Appliance) -> None:
    async def both() -> list[httpx.Response]:
        transport = httpx.AsyncHTTPTransport(uds=str(filled.home.authority_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://authority", timeout=60) as client:
            words = {"json": {"reason": "twice"}, "headers": {"idempotency-key": "key-number-6"}}
            return await asyncio.gather(*(client.post("/v1/datasets/notes/hold", **words) for _ in range(8)))

    before = holds(filled)
    answers = asyncio.run(both())
    assert holds(filled) == before + 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.text for answer in answers if answer.status_code == 201}) == 1


def test_another_account_has_keys_of_its_own(filled: Appliance, raw: httpx.Client) -> None:
    hold(raw, "key-number-7")
    with sqlite3.connect(f"file:{filled.home.state}?mode=ro", uri=True) as state:
        rows = state.execute(
            "select uid, key, status, body from replies where key = 'key-number-7'"
        ).fetchall()
    assert [(uid, status) for uid, _, status, _ in rows] == [(os.getuid(), 201)]
    assert json.loads(rows[0][3])["reason"] == "a court asked"


@needs_root
def test_whoever_lost_the_role_is_not_answered_again() -> None:
    """One of two roles is left: it is not the one that let the account do it."""
    with (
        made_accounts({"two": ["steward", "trainer"]}) as people,
        shared_appliance() as shared,
    ):
        path, account = shared.home.authority_socket, people["two"]

        def begin() -> None:
            with Client(path) as client:
                client.initialise(PASSPHRASE)

        def bring() -> None:
            with Client(path) as client:
                import_rows(client, "notes", ROWS)

        def ask() -> tuple[int, dict[str, Any], bool]:
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://authority", timeout=60) as raw:
                answer = hold(raw, "key-number-8")
            return answer.status_code, answer.json(), "idempotent-replay" in answer.headers

        as_account(people["admin"], begin)
        as_account(account, bring)
        status, first, _ = as_account(account, ask)
        assert status == 201 and as_account(account, ask) == [201, first, True]
        run("gpasswd", "-d", account, GROUP.format("steward"))
        status, told, replayed = as_account(account, ask)
        assert (status, told["code"], replayed) == (403, "denied", False) and first["hold_id"] not in str(
            told
        )
        run("gpasswd", "-a", account, GROUP.format("steward"))
        assert as_account(account, ask) == [201, first, True], "the record is still there"


def test_a_client_outlives_a_kill_in_the_middle(filled: Appliance) -> None:
    """Whatever came of the request, the client hears it; nothing is done twice."""
    for _ in range(4):
        before = {one.hold_id for one in filled.client.holds()}
        heard: list[object] = []

        def ask(heard: list[object] = heard) -> None:
            with Client(filled.home.authority_socket) as client:
                try:
                    heard.append(client.hold("notes", HoldRequest(reason="killed")).hold_id)
                except Exception as error:
                    heard.append(error)

        asking = threading.Thread(target=ask)
        pid = embedded.listener_pid(filled.home.authority_socket)
        assert pid is not None
        asking.start()
        os.kill(pid, signal.SIGKILL)
        embedded.await_end(pid)
        embedded.start(filled.home, gateway=False)
        filled.client.unlock(PASSPHRASE)
        asking.join(120)
        made = {one.hold_id for one in filled.client.holds()} - before
        assert len(made) <= 1 and len(heard) == 1
        if isinstance(heard[0], str):
            assert made == {heard[0]}
