"""shred, hold, forget, backup and restore as an operator types them."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest
from tests.appliance.test_shredding import rows
from tests.conftest import Appliance, import_rows, start_appliance

from cloister import embedded
from cloister.demo.search import find_leaks
from cloister.home import Home
from cloister.restoring import RESTORED

IDENTITY = pyrage.x25519.Identity.generate()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    appliance = start_appliance(tmp_path_factory.mktemp("h") / "h", gateway=False)
    yield appliance
    appliance.client.close()
    embedded.stop(appliance.home)


def cloister(appliance: Appliance, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cloister.cli.main", *arguments],
        env={**os.environ, "CLOISTER_HOME": str(appliance.home.root)},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )


def answered(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_shred_asks_for_the_name(home: Appliance) -> None:
    import_rows(home.client, "one", rows())
    plan = answered(cloister(home, "dataset", "shred", "one", "--dry-run", "--json"))
    assert [item["name"] for item in plan["items"]] == ["one"]
    assert "one" in cloister(home, "dataset", "shred", "one", "--dry-run").stdout
    unasked = cloister(home, "dataset", "shred", "one")
    assert unasked.returncode == 2
    assert "--yes one" in unasked.stderr
    assert cloister(home, "dataset", "shred", "one", "--yes", "two").returncode == 2
    done = answered(cloister(home, "dataset", "shred", "one", "--yes", "one", "--json"))
    assert (done["state"], done["keys"]) == ("done", 1)
    again = cloister(home, "dataset", "show", "one")
    assert again.returncode == 3
    assert "was shredded on" in again.stderr
    error = json.loads(cloister(home, "dataset", "shred", "one", "--yes", "one", "--json").stdout)["error"]
    assert error["code"] == "shredded"


def test_holds(home: Appliance) -> None:
    import_rows(home.client, "held", rows())
    placed = answered(cloister(home, "dataset", "hold", "held", "--reason", "case 7", "--json"))
    refused = cloister(home, "dataset", "shred", "held", "--yes", "held")
    assert refused.returncode == 4
    assert "case 7" in refused.stderr and "dataset release held" in refused.stderr
    assert placed["hold_id"] in cloister(home, "dataset", "holds").stdout
    assert answered(cloister(home, "dataset", "release", "held", "--json"))[0]["released_by"]


def test_forget_reads_who_from_standard_input(home: Appliance) -> None:
    import_rows(home.client, "people", rows(20, "Ada Lovelace of London"))
    who = "ada  LOVELACE of london 7\n\nnobody of this name\n"
    done = answered(cloister(home, "dataset", "forget", "people", "--json", given=who))
    assert (done["rows_forgotten"], done["identifiers"], done["identifiers_found"]) == (1, 2, 1)
    assert (done["version"], done["trained"], done["merged"], done["shred"]) == (2, [], [], None)
    assert cloister(home, "dataset", "forget", "people", given="").returncode == 2
    assert cloister(home, "dataset", "forget", "people", given="who is never there\n").returncode == 3
    told = cloister(home, "dataset", "forget", "people", given="Ada Lovelace of London 3")
    assert told.returncode == 0
    assert "1 rows were left out" in told.stderr and "shred people --version 2" in told.stderr
    at_once = ("--shred", "now", "--yes", "people", "--json")
    done = answered(cloister(home, "dataset", "forget", "people", *at_once, given="Ada Lovelace of London 4"))
    assert done["shred"]["state"] == "done"
    assert "people --version 1" in cloister(home, "status").stderr
    for needle in ("nobody of this name", "LOVELACE of london", "who is never there"):
        assert find_leaks(needle, [home.home.root]) == []


def test_backup_and_restore(home: Appliance, tmp_path: Path) -> None:
    target, key = tmp_path / "list", tmp_path / "key.txt"
    target.mkdir()
    key.write_text(f"# created: today\n{IDENTITY}\n")
    recipient = ("--recipient", str(IDENTITY.to_public()))
    made = answered(cloister(home, "backup", str(target), *recipient, "--json"))
    again = cloister(home, "backup", "make", str(target), *recipient)
    assert again.returncode == 0
    assert "0 of them copied now" in again.stderr
    assert made["backup_id"] in cloister(home, "backup", "list").stdout
    assert len(answered(cloister(home, "backup", "list", "--json"))) == 2
    assert cloister(home, "backup", str(tmp_path / "nowhere"), *recipient).returncode == 2
    assert cloister(home, "backup", str(target)).returncode == 2
    check = (
        "restore",
        str(target),
        "--into",
        str(tmp_path / "new"),
        "--identity",
        str(key),
        "--check",
        "--json",
    )
    assert answered(cloister(home, *check))["home"] is None
    assert not (tmp_path / "new").exists()
    by_id = ("restore", str(target), "--check", "--identity-fd", "0", "--backup", made["backup_id"], "--json")
    assert answered(cloister(home, *by_id, given=str(IDENTITY)))["backup_id"] == made["backup_id"]
    pack = next((target / "packs").iterdir())
    pack.write_bytes(pack.read_bytes()[:-1])
    damaged = cloister(home, *check[:-1])
    assert damaged.returncode == 7
    assert pack.name in damaged.stderr
    assert cloister(home, "restore", str(target), "--identity", str(key)).returncode == 2
    gone = answered(cloister(home, "backup", "discard", made["backup_id"], "--json"))
    assert gone["discarded_at"]
    plan = answered(cloister(home, "dataset", "shred", "people", "--dry-run", "--json"))
    assert [backup["backup_id"] for backup in plan["backups"]] != []
    assert made["backup_id"] not in [backup["backup_id"] for backup in plan["backups"]]


def test_a_passphrase_by_descriptor(home: Appliance, tmp_path: Path) -> None:
    target = tmp_path / "t"
    target.mkdir()
    made = cloister(home, "backup", str(target), "--passphrase-fd", "0", given="open sesame\n")
    assert made.returncode == 0, made.stderr
    check = (
        "restore",
        str(target),
        "--into",
        str(tmp_path / "n"),
        "--check",
        "--passphrase-fd",
        "0",
        "--json",
    )
    assert answered(cloister(home, *check, given="open sesame\n"))["ok"] is True
    wrong = cloister(home, *check, given="closed\n")
    assert wrong.returncode == 6


def test_the_ledger_is_told_the_account_that_restores_and_not_what_its_shell_says(
    home: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, into = tmp_path / "t", tmp_path / "n"
    target.mkdir()
    made = cloister(home, "backup", str(target), "--passphrase-fd", "0", given="open sesame\n")
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("LOGNAME", "somebody-else")
    restore = ("restore", str(target), "--into", str(into), "--passphrase-fd", "0", "--json")
    assert answered(cloister(home, *restore, given="open sesame\n"))["home"] == str(into)
    told = json.loads((Home(into).state.parent / RESTORED).read_text())
    assert told["by"] == pwd.getpwuid(os.getuid()).pw_name
