"""Roles at the socket, asked by processes of real accounts: what they get by the groups that they are in at that
moment, who may reach what, and the whole table, each cell on a real thing of its class."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.cells import Ask, answers, outcome, plant, requests_for, routes
from tests.appliance.role_accounts import (
    GROUP,
    as_account,
    as_accounts,
    made_accounts,
    needs_root,
    run,
    shared_appliance,
)
from tests.conftest import PASSPHRASE, Appliance

from cloister import embedded
from cloister.api import APPROVAL_NAMESPACE, ApprovalDecision, PolicyProposal, PolicyQuestion
from cloister.appliance.authority import Authority
from cloister.appliance.guard import require_guarded
from cloister.appliance.http import create_app
from cloister.client import Client
from cloister.errors import ApprovalNeeded, Denied, InvalidInput, Unavailable
from cloister.home import Home
from cloister.policy import Settings
from cloister.policy.cedar import ROLES, Demand, PolicySet, default_policies
from cloister.policy.table import COLUMNS, Cell, as_markdown, table
from cloister.policy.things import CLASSIFIED

LIMITS = {"burst": 100_000, "requests_per_s": 10_000}
NOT_INTERNAL = "".join(
    f'@id("no-internal-{kind.lower()}")\nforbid (principal, action, resource is {kind})\n'
    'when { resource.classification == "internal" };\n'
    for kind in sorted(CLASSIFIED)
)
"""With it the classification decides about everything that has one."""
NOTHING_MILDER = ("dataset.declassify", "public")
"""The one cell that there is nothing to do in: allowed is then told by the conflict."""


@pytest.fixture(scope="module")
def accounts() -> Iterator[dict[str, str]]:
    with made_accounts({"two": ["auditor", "steward"]}) as made:
        yield made


@pytest.fixture(scope="module")
def shared(accounts: dict[str, str]) -> Iterator[Appliance]:
    with shared_appliance(api=LIMITS) as appliance:
        yield appliance


def ask(path: Path, method: str, target: str) -> tuple[int, str]:
    """Status and code of one request without a body, over a connection of its own."""
    connection = http.client.HTTPConnection("authority", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
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


# --- the whole table: each cell asked for on a real thing of its class ---


@dataclass(frozen=True)
class Furnished:
    """The appliance, its accounts by role, what was planted in it, and its routes."""

    appliance: Appliance
    accounts: dict[str, str]
    things: dict[tuple[str, ...], str]
    doors: dict[tuple[str, str], list[tuple[str, str]]]

    def as_role(self, role: str, work: Any) -> Any:
        def inside() -> Any:
            with Client(self.appliance.home.authority_socket) as client:
                return work(client)

        return as_account(self.accounts[role], inside)

    def outcomes(
        self, cells: Sequence[Cell], policies: PolicySet, mark: str
    ) -> list[tuple[Cell, Ask, Demand | None, Any]]:
        """What each request of each cell gets, asked by its role's account; all accounts at once."""
        path = self.appliance.home.authority_socket
        asked = {
            role: [
                (cell, one)
                for cell in cells
                if cell.role == role
                for one in requests_for(cell, self.doors, self.things, mark, policies)
            ]
            for role in COLUMNS
        }
        told = as_accounts(
            [
                (self.accounts[role], partial(answers, path, [one for _, one in mine]))
                for role, mine in asked.items()
            ]
        )
        got = [
            pair
            for mine, its in zip(asked.values(), told, strict=True)
            for pair in zip(mine, its, strict=True)
        ]
        listed = self.as_role(
            "auditor", lambda client: {a.approval_id: a.signature_needed for a in client.approvals()}
        )
        return [(cell, one, outcome(told, listed), told) for (cell, one), told in got]


@pytest.fixture(scope="module")
def furnished(
    shared: Appliance, accounts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Furnished:
    uids = {role: pwd.getpwnam(accounts[role]).pw_uid for role in COLUMNS}
    doors = routes(tmp_path_factory.mktemp("routes") / "h")
    found = Furnished(shared, accounts, plant(shared.home, uids), doors)
    found.as_role("admin", lambda client: client.initialise(PASSPHRASE))
    return found


def disagreements(got: Sequence[tuple[Cell, Ask, Demand | None, Any]], cells: Sequence[Cell]) -> list[Any]:
    """Requests that come out otherwise than their cells. What names no thing counts as the strictest."""
    expected = {cell.place: cell.demand for cell in cells}
    wrong = []
    for cell, one, demand, told in got:
        action, kind, classification, role = cell.place
        if not one.of_thing and kind in CLASSIFIED:
            classification = "restricted"
        wanted = expected[action, kind, classification, role]
        if (cell.action, cell.classification) == NOTHING_MILDER and wanted is not Demand.DENIED:
            wanted = Demand.NOTHING
        if demand is not wanted:
            wrong.append((cell.place, one.method, one.path, str(wanted), told))
    return wrong


@pytest.fixture(scope="module")
def checked_in() -> tuple[PolicySet, tuple[Cell, ...]]:
    shipped = PolicySet.load(default_policies())
    return shipped, table(shipped)


@needs_root
def test_every_cell_of_the_checked_in_table_holds_at_the_socket(
    furnished: Furnished, checked_in: tuple[PolicySet, tuple[Cell, ...]]
) -> None:
    shipped, cells = checked_in
    assert as_markdown(cells) == (default_policies() / "TABLE.md").read_text()
    got = furnished.outcomes(cells, shipped, "first")
    assert {cell.place for cell, *_ in got} == {cell.place for cell in cells}
    assert {(c.action, c.kind) for c in cells} == set(furnished.doors)
    assert {demand for *_, demand, _ in got} == set(Demand)
    assert disagreements(got, cells) == []
    started = [
        status
        for cell, _, _, (status, *_) in got
        if (cell.action, cell.role, cell.situation) == ("run.start", "trainer", "no personal data")
    ]
    assert started == [202, 202, 202, 403], "what is allowed is done"
    print(f"cells: {len(cells)}, requests: {len(got)}")


def put_in_force(furnished: Furnished, policies: PolicySet, keys: Path) -> None:
    """As people do: an admin proposes it, an approver signs, the admin proposes it again."""
    approver = furnished.accounts["approver"]
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(keys / "key"))
    signers = furnished.appliance.home.allowed_signers
    signers.write_text(f"{approver} {(keys / 'key.pub').read_text()}")

    def propose(client: Client) -> str:
        try:
            return client.propose_policies(PolicyProposal(files=policies.files)).digest
        except ApprovalNeeded as needed:
            return str(needed.values["approval"])

    needed = furnished.as_role("admin", propose)
    (keys / "document").write_text(
        furnished.as_role("approver", lambda client: client.approval(needed).document)
    )
    run("ssh-keygen", "-Y", "sign", "-n", APPROVAL_NAMESPACE, "-f", str(keys / "key"), str(keys / "document"))
    signature = (keys / "document.sig").read_text()

    def give(client: Client) -> None:
        digest = client.approval(needed).digest
        client.approve(needed, ApprovalDecision(digest=digest, signature=signature))

    furnished.as_role("approver", give)
    assert furnished.as_role("admin", propose) == policies.digest


@needs_root
def test_where_the_classification_decides_each_class_is_told_apart(
    furnished: Furnished, checked_in: tuple[PolicySet, tuple[Cell, ...]], tmp_path: Path
) -> None:
    """Under a set that keeps internal things from everybody: just its changed cells come out otherwise."""
    other = PolicySet({**checked_in[0].files, "more.cedar": NOT_INTERNAL}, "")
    put_in_force(furnished, other, tmp_path)
    before, after = checked_in[1], table(other)
    could = {cell.place for cell in before if cell.allowed and cell.kind in CLASSIFIED}
    got = furnished.outcomes([cell for cell in after if cell.place in could], other, "second")
    assert disagreements(got, after) == []
    was = {cell.place: cell.demand for cell in before}
    otherwise = {cell.place for cell in after if cell.demand is not was[cell.place]}
    of_thing = {cell.place for cell, one, *_ in got if one.of_thing}
    assert {place for place, *_ in disagreements(got, before)} == otherwise & of_thing
    assert len(otherwise & of_thing) > 40


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
            timeout=120,
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
