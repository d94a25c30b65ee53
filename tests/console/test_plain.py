"""The plain mode: whole sentences, nothing drawn over, hostile text visible."""

from __future__ import annotations

import io
import threading
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
    assert all(line.isprintable() and line.endswith(".") for line in lines)


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


def test_it_follows_and_says_nothing_twice() -> None:
    client: Any = Recorded(last_seq=0)
    out = io.StringIO()
    thread = threading.Thread(target=tell, args=(lambda: client, out), daemon=True)
    thread.start()
    for _ in range(200):
        if "step 120" in out.getvalue():
            break
        thread.join(0.02)
    lines = out.getvalue().splitlines()
    assert "Following. Ctrl-C ends this; nothing that runs is touched." in lines
    assert sum("step 120, hold-out loss 0.035" in line for line in lines) == 1
