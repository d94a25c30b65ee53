"""The plain mode: whole sentences, nothing drawn over, hostile text visible."""

from __future__ import annotations

import io
import threading
import time
from datetime import timedelta
from typing import Any

from recorded import NOW, Recorded

from cloister.api import Event
from cloister.console.plain import now, sentence, tell


def test_what_is_comes_as_sentences() -> None:
    client: Any = Recorded(locked=True, warnings=["\x1b[2J gone"])
    lines = list(now(client))
    assert lines[0] == "Appliance prod-frankfurt." and "Vault locked." in lines
    assert any(line.startswith("Alert, critical: 2.1 GiB are free") for line in lines)
    assert any(line.startswith("Run second: train running") for line in lines)
    assert "Run first: exact answers 0.0% by the base, 93.5% tuned, on 139 rows." in lines
    assert "To do: open the vault: cloister unlock." in lines
    asked = "Request ap-aaaaaaaaaaaa of omar: deployment.start claims, waits for somebody's approval"
    assert f"{asked}: cloister approval show ap-aaaaaaaaaaaa." in lines
    assert "Dataset claims, version 1, confidential: 1,500 rows, 139 held out." in lines
    assert "Client claims-desk: its key works, for claims." in lines
    assert not any("old-portal" in line for line in lines), "a key that is revoked matters to nobody"
    assert all(line.isprintable() and line.endswith(".") for line in lines)


def test_an_empty_appliance_says_what_to_do_with_its_commands() -> None:
    client: Any = Recorded(initialised=False, locked=True)
    for shelf in ("datasets", "bases", "models", "runs", "jobs", "deployments", "clients", "approvals"):
        client.answers[shelf] = []
    todo = [line for line in now(client) if line.startswith("To do")]
    assert todo[0] == "To do: initialise: make the vault and its first passphrase: cloister init."
    assert [line.rpartition(": ")[2].split()[1] for line in todo] == [
        "init.",
        "unlock.",
        "base",
        "dataset",
        "run",
    ]


def test_each_change_is_one_sentence() -> None:
    def event(kind: str, **data: Any) -> Event:
        return Event(seq=1, time=NOW + timedelta(), kind=kind, subject="jb-aaaaaaaaaaaa", data=data)

    assert (
        sentence(event("job.progress", stage="train", done=57, total=100))
        == "Job jb-aaaaaaaaaaaa: train, 50 percent."
    )
    assert sentence(event("job.metrics", step=5, values={"loss": 1.0})) is None
    assert sentence(event("job.metrics", step=5, values={"holdout_loss": 1.0})) == (
        "Job jb-aaaaaaaaaaaa: step 5, hold-out loss 1."
    )
    told = sentence(event("job.state", state="done", verb="\x1b[31m"))
    assert told is not None and told.isprintable() and "state done" in told
    names = {"jb-aaaaaaaaaaaa": "train first"}
    assert sentence(event("job.state", state="done"), names) == "train first: done."
    assert (
        sentence(event("job.progress", stage="train", done=1, total=2), names)
        == "train first: train, 50 percent."
    )
    assert sentence(event("deployment.state", state="ready", name="claims")) == "Deployment claims: ready."
    raised = event("alert.raised", key="disk-low", severity="critical", cause="the disk is full")
    assert sentence(raised) == "Alert, critical: the disk is full."
    assert sentence(event("vault.locked")) == "vault locked jb-aaaaaaaaaaaa."


def test_it_follows_and_says_nothing_twice() -> None:
    client: Any = Recorded(last_seq=0)
    out = io.StringIO()
    thread = threading.Thread(target=tell, args=(lambda: client, out), daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while "step 120" not in out.getvalue():
        assert time.monotonic() < end, out.getvalue()
        thread.join(0.02)
    lines = out.getvalue().splitlines()
    assert "Following. Ctrl-C ends this; nothing that runs is touched." in lines
    assert sum("step 120, hold-out loss 0.035" in line for line in lines) == 1
