"""The whole table at the socket: each cell asked for on a real thing of its class, by processes of real accounts."""

from __future__ import annotations

import json
import pwd
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.cells import Ask, answers, outcome, plant, requests_for, routes
from tests.appliance.role_accounts import as_account, made_accounts, needs_root, shared_appliance
from tests.conftest import PASSPHRASE, Appliance

from cloister import embedded
from cloister.client import Client
from cloister.policy.cedar import Demand, PolicySet, default_policies
from cloister.policy.table import COLUMNS, Cell, as_markdown, table
from cloister.policy.things import CLASSIFIED

pytestmark = needs_root

LIMITS = {"burst": 100_000, "requests_per_s": 10_000}
NOT_INTERNAL = "".join(
    f'@id("no-internal-{kind.lower()}")\nforbid (principal, action, resource is {kind})\n'
    'when { resource.classification == "internal" };\n'
    for kind in sorted(CLASSIFIED)
)
"""With it the classification decides about everything that has one."""
NOTHING_MILDER = ("dataset.declassify", "public")
"""The one cell that there is nothing to do in: allowed is then told by the conflict."""


@dataclass(frozen=True)
class Shared:
    """One appliance, its accounts by role, what was planted in it, and its routes."""

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
        """What each request of each cell gets, asked by its role's account in one process."""
        path = self.appliance.home.authority_socket
        got = []

        for role in COLUMNS:
            asked = [
                (cell, one)
                for cell in cells
                if cell.role == role
                for one in requests_for(cell, self.doors, self.things, mark, policies)
            ]
            told = as_account(self.accounts[role], lambda asked=asked: answers(path, [a for _, a in asked]))
            got += list(zip(asked, told, strict=True))
        listed = self.as_role(
            "auditor", lambda client: {a.approval_id: a.signature_needed for a in client.approvals()}
        )
        return [(cell, one, outcome(told, listed), told) for (cell, one), told in got]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with made_accounts() as accounts, shared_appliance(api=LIMITS) as appliance:
        uids = {role: pwd.getpwnam(account).pw_uid for role, account in accounts.items()}
        things = plant(appliance.home, uids)
        found = Shared(appliance, accounts, things, routes(tmp_path_factory.mktemp("routes") / "h"))
        found.as_role("admin", lambda client: client.initialise(PASSPHRASE))
        yield found


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


def test_every_cell_of_the_checked_in_table_holds_at_the_socket(
    shared: Shared, checked_in: tuple[PolicySet, tuple[Cell, ...]]
) -> None:
    shipped, cells = checked_in
    assert as_markdown(cells) == (default_policies() / "TABLE.md").read_text()
    got = shared.outcomes(cells, shipped, "first")
    assert {cell.place for cell, *_ in got} == {cell.place for cell in cells}
    assert {(c.action, c.kind) for c in cells} == set(shared.doors)
    assert {demand for *_, demand, _ in got} == set(Demand)
    assert disagreements(got, cells) == []
    started = [
        status
        for cell, _, _, (status, *_) in got
        if (cell.action, cell.role, cell.situation) == ("run.start", "trainer", "no personal data")
    ]
    assert started == [202, 202, 202, 403], "what is allowed is done"
    print(f"cells: {len(cells)}, requests: {len(got)}")


def test_where_the_classification_decides_each_class_is_told_apart(
    shared: Shared, checked_in: tuple[PolicySet, tuple[Cell, ...]], tmp_path: Path
) -> None:
    """Under a set that keeps internal things from everybody: just its changed cells come out otherwise."""
    folder = tmp_path / "policies"
    shutil.copytree(default_policies(), folder)
    (folder / "more.cedar").write_text(NOT_INTERNAL)
    other = PolicySet.load(folder)
    home = shared.appliance.home
    settings = json.loads(home.settings_file.read_text())
    settings["access"] |= {"policies": str(folder), "accept_policies": other.digest}
    embedded.stop(home)
    home.settings_file.write_text(json.dumps(settings))
    embedded.start(home, gateway=False)
    shared.as_role("admin", lambda client: client.unlock(PASSPHRASE))
    before, after = checked_in[1], table(other)
    could = {cell.place for cell in before if cell.allowed and cell.kind in CLASSIFIED}
    got = shared.outcomes([cell for cell in after if cell.place in could], other, "second")
    assert disagreements(got, after) == []
    was = {cell.place: cell.demand for cell in before}
    otherwise = {cell.place for cell in after if cell.demand is not was[cell.place]}
    of_thing = {cell.place for cell, one, *_ in got if one.of_thing}
    assert {place for place, *_ in disagreements(got, before)} == otherwise & of_thing
    assert len(otherwise & of_thing) > 40
