"""`cloister since`, and how operators write moments."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_shell import Shell
from tests.conftest import PASSPHRASE

from cloister import embedded
from cloister.api import LedgerEntry, Problem
from cloister.cli import since
from cloister.cli.moments import moment
from cloister.errors import InvalidInput

WHO = pwd.getpwuid(os.getuid()).pw_name
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
    assert {"action": "client.issue", "actor": WHO, "count": 1} in report["done"]
    assert {"action": "vault.unlock", "actor": WHO, "count": 1} in report["done"]
    refused = [one for one in report["told"] if one["action"] == "vault.unlock"]
    assert [(one["who"], one["why"], one["times"]) for one in refused] == [(WHO, "wrong passphrase", 1)]
    assert not report["more"]


def test_a_refused_import_is_told_with_its_name_and_what_to_do_and_no_row(
    shell: Shell, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "heron", "nope": 1}\n')
    for _ in range(2):
        shell("dataset", "import", str(rows), "--name", "messages", code=2)
    told = shell("since", "1h").stdout
    failed = [line for line in told.splitlines() if "import messages (jb-" in line]
    assert (
        len(failed) == 1
        and ", 2 times since " in told
        and "    1 of 1 rows are bad; nothing was imported" in told
    )
    assert "try: Mend them" in told and "heron" not in told
    assert max(map(len, told.splitlines())) <= 80


def entry(index: int, action: str, *objects: str, **more: Any) -> LedgerEntry:
    return LedgerEntry(
        index=index,
        time=(NOON + timedelta(minutes=index)).isoformat(),
        actor="cloisterd",
        identified_by="self",
        action=action,
        objects=list(objects),
        **more,
    )


def test_what_happened_often_is_told_once_and_an_alert_says_that_it_is_over() -> None:
    entries = [
        entry(1, "alert.raised", "disk", reason="3.9 GiB are free"),
        entry(2, "alert.cleared", "disk", reason="3.9 GiB are free"),
        entry(3, "deployment.down", "dp-1", reason="unavailable"),
        entry(4, "alert.raised", "disk", reason="3.2 GiB are free"),
        entry(5, "deployment.down", "dp-1", reason="unavailable"),
        entry(6, "alert.raised", "launcher", reason="it does not answer"),
        entry(7, "alert.cleared", "disk", reason="3.2 GiB are free"),
    ]
    wrong = [one for one in entries if since._went_wrong(one)]
    ended = Problem(title="x", status=503, code="unavailable", detail="the engine ended", remedy="Look.")
    told = since._wrong(entries, wrong, {"dp-1": "deployment desk"}, {"dp-1": ended}, {"launcher"})
    assert [(one.things, one.why, one.times, one.cleared is not None) for one in told] == [
        (("disk",), "3.2 GiB are free", 2, True),
        (("deployment desk (dp-1)",), "the engine ended", 2, False),
        (("launcher",), "open still, see above", 1, False),
    ]
    assert told[1].remedy == "Look." and told[0].first < told[0].last


def test_alerts_are_listed_and_acknowledged_by_name(shell: Shell) -> None:
    shell("lock")
    for _ in range(3):
        shell("unlock", "--passphrase-fd", "0", stdin="not the passphrase", code=6)
    shell("unlock", "--passphrase-fd", "0", stdin=PASSPHRASE)
    end = time.monotonic() + 120
    while not [one for one in shell.json("alerts") if one["key"] == "unlock-attempts"]:
        assert time.monotonic() < end
        time.sleep(0.5)
    told = shell("alerts").stdout
    assert "CRITICAL  unlock-attempts" in told and "next     cloister audit search" in told
    first = shell("since", "1h").stdout.partition("went wrong or was refused")[0]
    assert first.startswith("needs somebody now") and "alert unlock-attempts (critical)" in first
    assert "try: cloister audit search --action vault.unlock --since 1h" in first
    shell("alerts", "ack", "unlock-attempts")
    assert f"seen by {WHO}" in shell("alerts").stdout
    assert f"{WHO} has acknowledged it already" in shell("alerts", "ack", "unlock-attempts", code=4).stderr
    assert "cloister alerts" in shell("alerts", "ack", "nothing", code=3).stderr


def test_nothing_since_then(shell: Shell) -> None:
    report = shell.json("since", "0s")
    assert report["entries"] == 0 and report["wrong"] == []


def test_what_is_no_time_is_refused(shell: Shell) -> None:
    assert "18:00" in shell("since", "teatime", code=2).stderr


@pytest.mark.parametrize(
    ("now", "evening", "minute_ago"),
    [
        ("2026-03-29T05:00", "2026-03-28T17:00", "2026-03-29T04:59"),
        ("2026-10-25T06:00", "2026-10-24T16:00", "2026-10-25T05:59"),
    ],
)
def test_an_evening_before_the_clocks_changed_is_by_the_clock_of_then(
    now: str, evening: str, minute_ago: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At seven in the morning, in UTC, of what began at 18:00."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        morning = datetime.fromisoformat(now).replace(tzinfo=UTC)
        assert moment("18:00", "--x", morning) == f"{evening}:00+00:00"
        assert moment("06:59", "--x", morning) == f"{minute_ago}:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_moments() -> None:
    assert moment("2h", "--x", NOON) == "2026-03-04T10:00:00+00:00"
    assert moment(None, "--x", NOON) is None
    before = datetime.fromisoformat(moment("18:00", "--x", NOON) or "")
    assert timedelta(0) <= NOON - before < timedelta(days=1)
    assert before.astimezone().strftime("%H:%M") == "18:00"
    for wrong in ("25:00", "yesterday", "", "9" * 9 + "d", "12:60", "-1h"):
        with pytest.raises(InvalidInput):
            moment(wrong, "--x", NOON)
