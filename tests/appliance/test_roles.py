"""Roles at the socket: what accounts get by the groups that they are in at that moment, and who may reach what."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.role_accounts import GROUP, as_account, made_accounts, needs_root, run, shared_appliance
from tests.conftest import PASSPHRASE, Appliance

from cloister import embedded
from cloister.api import PolicyQuestion
from cloister.appliance.authority import Authority
from cloister.appliance.guard import require_guarded
from cloister.appliance.http import create_app
from cloister.client import Client
from cloister.errors import Denied, InvalidInput, Unavailable
from cloister.home import Home
from cloister.policy import Settings
from cloister.policy.cedar import ROLES, PolicySet, default_policies


@pytest.fixture(scope="module")
def accounts() -> Iterator[dict[str, str]]:
    with made_accounts({"two": ["auditor", "steward"]}) as made:
        yield made


@pytest.fixture(scope="module")
def shared(accounts: dict[str, str]) -> Iterator[Appliance]:
    with shared_appliance() as appliance:
        yield appliance


def ask(path: Path, method: str, target: str) -> tuple[int, str]:
    """Status and code of one request without a body, over a connection of its own."""
    connection = http.client.HTTPConnection("authority", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(30)
    connection.sock.connect(str(path))
    try:
        connection.request(method, target, headers={"content-length": "0"} if method == "POST" else {})
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            return answer.status, ""
        found = answer.read()
        return answer.status, json.loads(found).get("code", "") if answer.status >= 400 else ""
    finally:
        connection.close()


@needs_root
def test_what_was_refused_is_in_the_ledger_once_a_minute(shared: Appliance, accounts: dict[str, str]) -> None:
    path = shared.home.authority_socket
    account = accounts["approver"]
    as_account(account, lambda: [ask(path, "POST", "/v1/vault/rotate/kek") for _ in range(20)])
    raw = as_account(accounts["auditor"], lambda: _entries(path))
    refused = [e for e in raw if e["action"] == "access.deny" and e["actor"] == account]
    rotations = [e for e in refused if e["details"]["asked"] == "vault.rotate"]
    assert len(rotations) == 1
    assert rotations[0]["decision"] == "deny" and rotations[0]["details"]["roles"] == ["approver"]
    assert rotations[0]["policy"] == PolicySet.load(default_policies()).digest


def _entries(path: Path) -> list[dict[str, Any]]:
    with Client(path) as client:
        return [entry.model_dump() for entry in client.entries(0, 1000)]


@needs_root
def test_two_groups_do_not_make_an_auditor_a_steward(shared: Appliance, accounts: dict[str, str]) -> None:
    def look() -> list[Any]:
        with Client(shared.home.authority_socket) as client:
            who = client.whoami()
            answer = client.explain(PolicyQuestion(action="dataset.import"))
            return [who.roles, who.sole, answer.allowed, answer.policies, answer.roles_that_may]

    roles, sole, allowed, policies, may = as_account(accounts["two"], look)
    assert roles == ["auditor", "steward"] and not sole
    assert not allowed and policies == ["auditor-changes-nothing"] and may == ["steward"]


@needs_root
def test_a_group_that_is_taken_away_counts_at_once(shared: Appliance, accounts: dict[str, str]) -> None:
    def roles() -> Any:
        with Client(shared.home.authority_socket) as client:
            return client.whoami().roles

    account = accounts["trainer"]
    assert as_account(account, roles) == ["trainer"]
    run("gpasswd", "--delete", account, GROUP.format("trainer"))
    try:
        assert as_account(account, roles) == []
    finally:
        run("gpasswd", "--add", account, GROUP.format("trainer"))


@needs_root
def test_the_account_that_runs_it_is_only_the_gateway_where_there_are_roles(shared: Appliance) -> None:
    with Client(shared.home.authority_socket) as client:
        assert client.whoami().roles == ["gateway"]
        with pytest.raises(Denied) as caught:
            client.initialise(PASSPHRASE)
        assert "admin" in (caught.value.remedy or "")


@needs_root
def test_only_the_two_sockets_are_open_to_others(shared: Appliance, accounts: dict[str, str]) -> None:
    home = shared.home

    def look() -> Any:
        seen = []
        for path in (
            home.root,
            home.run,
            home.keys,
            home.settings_file,
            home.launcher_socket,
            home.identity_file,
        ):
            try:
                os.listdir(path) if path.is_dir() else path.open().close()
                seen.append(str(path))
            except OSError:
                continue
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(home.launcher_socket))
            seen.append("launcher")
        except PermissionError:
            pass
        return seen

    assert as_account(accounts["admin"], look) == [str(home.settings_file), str(home.identity_file)]


def test_without_roles_it_belongs_to_one_account(appliance: Appliance) -> None:
    who = appliance.client.whoami()
    assert who.sole and set(who.roles) == set(ROLES)
    assert appliance.home.authority_socket.stat().st_mode & 0o777 == 0o600
    assert appliance.client.entries(0, 1)[0].policy == who.policies


@pytest.mark.parametrize("spoil", ["forbid", "gone"])
def test_an_authority_does_not_start_with_a_set_that_is_not_valid(tmp_path: Path, spoil: str) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(default_policies(), folder)
    if spoil == "forbid":
        (folder / "wrong.cedar").write_text(
            '@id("wrong")\nforbid (principal, action, resource) when { principal.naem == "x" };\n'
        )
    else:
        shutil.rmtree(folder)
    root = Path(tempfile.mkdtemp(prefix="pw"))
    home = Home(root / "h")
    home.root.mkdir()
    home.settings_file.write_text(json.dumps({"access": {"policies": str(folder)}}))
    try:
        with pytest.raises((InvalidInput, Unavailable)):
            embedded.start(home, gateway=False)
        done = subprocess.run(
            [str(Path(sys.executable).parent / "cloisterd"), "--home", str(home.root)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert str(folder) in done.stderr
    finally:
        embedded.stop(home)
        shutil.rmtree(root)


def test_a_route_without_an_action_keeps_the_authority_from_being_built(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    home.make()
    app = create_app(Authority(home, Settings()))
    app.get("/v1/new-and-unguarded")(lambda: None)
    with pytest.raises(RuntimeError, match="new-and-unguarded"):
        require_guarded(app)
