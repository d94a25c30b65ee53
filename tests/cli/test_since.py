"""`cloister since`, and how operators write moments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cli_shell import Shell
from tests.conftest import PASSPHRASE

from cloister import embedded
from cloister.cli.moments import moment
from cloister.errors import InvalidInput

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("s") / "home")
    shell.home.root.mkdir()
    shell.settings()
    shell("up", "--json")
    shell("init", "--passphrase-fd", "0", stdin=PASSPHRASE)
    yield shell
    embedded.stop(shell.home)


def test_it_tells_what_went_wrong_and_what_was_done(shell: Shell) -> None:
    shell("client", "issue", "desk")
    shell("lock")
    shell("unlock", "--passphrase-fd", "0", stdin="not the passphrase", code=6)
    shell("unlock", "--passphrase-fd", "0", stdin=PASSPHRASE)
    told = shell("since", "1h")
    assert "vault.unlock" in told.stdout and "client.issue" in told.stdout
    assert "went wrong or was refused" in told.stdout
    report = shell.json("since", "1h")
    assert {"action": "client.issue", "actor": "root", "count": 1} in report["done"]
    assert {"action": "vault.unlock", "actor": "root", "count": 1} in report["done"]
    assert [entry["action"] for entry in report["wrong"]] == ["vault.unlock"]
    assert not report["more"]


def test_alerts_are_listed_and_acknowledged_by_name(shell: Shell) -> None:
    shell("lock")
    for _ in range(3):
        shell("unlock", "--passphrase-fd", "0", stdin="not the passphrase", code=6)
    shell("unlock", "--passphrase-fd", "0", stdin=PASSPHRASE)
    end = time.monotonic() + 60
    while not [one for one in shell.json("alerts") if one["key"] == "unlock-attempts"]:
        assert time.monotonic() < end
        time.sleep(0.5)
    told = shell("alerts").stdout
    assert "CRITICAL  unlock-attempts" in told and "next     cloister audit search" in told
    shell("alerts", "ack", "unlock-attempts")
    assert "seen by root" in shell("alerts").stdout
    assert "root has acknowledged it already" in shell("alerts", "ack", "unlock-attempts", code=4).stderr
    assert "cloister alerts" in shell("alerts", "ack", "nothing", code=3).stderr


def test_nothing_since_then(shell: Shell) -> None:
    report = shell.json("since", "0s")
    assert report["entries"] == 0 and report["wrong"] == []


def test_what_is_no_time_is_refused(shell: Shell) -> None:
    assert "18:00" in shell("since", "teatime", code=2).stderr


def test_moments() -> None:
    assert moment("2h", "--x", NOON) == "2026-03-04T10:00:00+00:00"
    assert moment(None, "--x", NOON) is None
    before = datetime.fromisoformat(moment("18:00", "--x", NOON) or "")
    assert timedelta(0) <= NOON - before < timedelta(days=1)
    assert before.astimezone().strftime("%H:%M") == "18:00"
    for wrong in ("25:00", "yesterday", "", "9" * 9 + "d", "12:60", "-1h"):
        with pytest.raises(InvalidInput):
            moment(wrong, "--x", NOON)
