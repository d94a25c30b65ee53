"""From an empty home to an answered chat, by keys alone, in a real terminal: nothing is called, only looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from console_world import NARROW, WIDE
from terminal import Terminal, terminal
from tests.conftest import BASE_FOLDER, LOOPBACK, PASSPHRASE

from cloister import embedded
from cloister.client import Client
from cloister.demo.claims import json_lines
from cloister.home import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux"),
]
ROWS = 120
ASKED = "Our cellar was flooded, policy KD-204117. Asked-by-keys-5f2e."
CLEAR = ("End", *["BSpace"] * 80)
"""A form that comes again has what was typed, such as a path."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path has 108 bytes at most."""
    made = Path(tempfile.mkdtemp(prefix="ck"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(
    "size", [pytest.param(NARROW, id="80x24"), pytest.param(WIDE, id="120x40", marks=pytest.mark.soak)]
)
def test_from_an_empty_home_to_an_answered_chat(size: tuple[int, int], folder: Path) -> None:
    home = Home(folder / "home")
    home.root.mkdir()
    home.settings_file.write_text(f"gateway: {{listen: '{LOOPBACK}'}}\n")
    source = folder / "claims.jsonl"
    source.write_bytes(b"".join(islice(json_lines(ROWS, seed=7), ROWS)) + b'{"prompt": "a"}\n')
    program = [str(Path(sys.executable).parent / "cloister")]
    environment = {"CLOISTER_HOME": str(home.root), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    environment |= {
        name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ
    }
    try:
        with terminal(folder, size, [*program, "console"], environment) as shown:
            open_the_vault(shown)
            bring_in(shown, source)
            train(shown)
            merge_and_serve(shown)
            chat(shown)
            drain_and_leave(shown, home, program, environment)
        recorded(home)
    finally:
        embedded.stop(home)


def fill(shown: Terminal, *values: str | None) -> None:
    """The fields of a form from the focused one on, the last with Enter; None leaves one as it is."""
    for number, value in enumerate(values, 1):
        if value is not None:
            shown.press(*CLEAR)
            shown.type_in(value)
        shown.press("Enter" if number == len(values) else "Tab")


def leave(shown: Terminal, title: str) -> str:
    """Esc, and wait for what it closes to be gone: with a key that follows at once it would be an alt key."""
    shown.press("Escape")
    return shown.until(lambda text: title not in text)


def open_the_vault(shown: Terminal) -> None:
    shown.until("Welcome", "no vault yet")
    shown.press("v")
    shown.until("Read-only: press w")
    shown.press("w", "v")
    shown.until("Make the vault")
    fill(shown, PASSPHRASE, PASSPHRASE)
    assert PASSPHRASE not in shown.until("● open")


def bring_in(shown: Terminal, source: Path) -> None:
    """A base; then data, tried first: the dry run lists the bad row, which the import then leaves out."""
    shown.press("b")
    shown.until("Add a base model")
    fill(shown, str(BASE_FOLDER), "small")
    shown.until("small is in", seconds=120)
    shown.press("i")
    shown.until("Bring data in")
    shown.type_in(str(source))
    shown.press("Tab")
    shown.type_in("claims")
    shown.press("Tab", "Enter")
    shown.until("dry run: list problems")
    shown.press("Down", "Enter")
    shown.until(lambda text: re.search(r"dry run.* ▼", text))
    fill(shown, *[None] * 11)
    shown.until(f"claims.jsonl:{ROWS + 1}", "× refused")
    leave(shown, "A dry run of claims")
    shown.press("2")
    shown.until("No data yet")
    shown.press("i")
    shown.until("Bring data in")
    fill(shown, str(source), "claims", *[None] * 10, "1")
    shown.until("Problems in claims", f"claims.jsonl:{ROWS + 1}")
    leave(shown, "Problems in claims")
    shown.until(f"sealed: {ROWS} rows")


def train(shown: Terminal) -> None:
    shown.press("3")
    shown.until("No run yet")
    shown.press("n")
    shown.until("Start a run")
    fill(shown, "first", None, None, None, None, "1", "0.001", "8", "16", None, "320", None)
    shown.until("► running")
    shown.press("Enter")
    text = shown.until("held-out rows", seconds=400)
    assert "evaluation  ● done" in text
    shown.press("Escape")
    shown.until(lambda text: re.search("run +state +progress", text))


def merge_and_serve(shown: Terminal) -> None:
    shown.press("m")
    shown.until("Merge the adapter of first")
    shown.press("Enter")
    shown.until("is being merged")
    shown.press("4")
    shown.until("merged model", lambda text: "a merge" not in text, seconds=200)
    shown.press("Down", "Down", "s")
    shown.until("Serve a merged model")
    fill(shown, None, "claims", "512")
    shown.until("is starting")
    shown.press("5")
    shown.until("claims", "● ready", seconds=400)


def chat(shown: Terminal) -> None:
    shown.press("c")
    shown.until("Chat:", "● ready")
    shown.type_in(ASKED)
    shown.press("Enter")
    shown.until("you  Our cellar", "tokens in", "● ready", "req-", seconds=120)
    assert "flooded" not in leave(shown, "Chat:")
    shown.press("Enter")
    shown.until("0 at work, 0 wait", "cache in use", "prompt tokens")
    shown.press("Escape")
    shown.until("served as")


def drain_and_leave(shown: Terminal, home: Home, program: list[str], environment: dict[str, str]) -> None:
    """Somebody else's request is in progress: it is answered whole, and then the engine ends."""
    with (
        subprocess.Popen(
            [*program, "serve", "chat", "claims", "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        ) as other,
        Client(home.authority_socket) as client,
    ):
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write(b"And the roof?\n")
        other.stdin.flush()
        end = time.monotonic() + 120
        while len(client.search_ledger(ledger="gateway", action="inference.intent").entries) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        shown.press("d")
        shown.until("Drain, then stop serving")
        fill(shown, "claims")
        shown.until("claims is stopped", seconds=120)
        answer = json.loads(other.stdout.readline())
        assert answer["tokens"] and answer["finish"] in ("stop", "length")
        other.stdin.close()
        assert other.wait(60) == 0
    shown.press("q")
    shown.ended()


def recorded(home: Home) -> None:
    """Every step is on the ledgers, and neither the passphrase nor what was asked lies anywhere below the home."""
    with Client(home.authority_socket) as client:
        did = [entry.action for entry in client.entries(limit=1000)]
        steps = (
            "vault.init", "base.import", "dataset.import", "run.start", "model.merge", "deployment.start",
            "client.issue", "client.revoke", "deployment.stop",
        )  # fmt: skip
        assert [did.index(step) for step in steps] == sorted(did.index(step) for step in steps)
        answered = client.search_ledger(ledger="gateway", action="inference.completion").entries
        assert [entry.details["status"] for entry in answered] == [200, 200]
        keys = client.clients()
        assert [entry.actor for entry in answered] == [key.client_id for key in keys]
        assert all(key.revoked_at is not None for key in keys)
    for path in home.root.rglob("*"):
        if path.is_file():
            with suppress(FileNotFoundError):  # the authority runs on: a temporary name of a moment ago
                raw = path.read_bytes()
                assert PASSPHRASE.encode() not in raw and b"Asked-by-keys" not in raw, path
