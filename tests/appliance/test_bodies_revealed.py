"""Opening and shredding kept bodies through a running appliance: entered first, never through its HTTP."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.conftest import PASSPHRASE, Appliance, start_appliance

from cloister import embedded
from cloister.api import BodyRequest, LockRequest, ShredBodiesRequest
from cloister.cli.receiving import received
from cloister.demo.search import find_leaks
from cloister.errors import Locked, NotFound, Tampered
from cloister.home import Home
from cloister.ledger import Entry, Ledger
from cloister.vault.bodies import SealedBody, seal_body
from cloister.vault.body_store import BodyStore

CANARY = "canary-77c1-only-in-bodies"
PROMPT = f"Ist der Schaden gedeckt? {CANARY}\x1b[2J".encode()
DAYS = ("2026-11-19", "2026-11-20", "2026-11-21", "2026-11-21")


class Kept:
    """An appliance whose gateway has kept four prompts; entry n of the gateway's ledger commits to body n."""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance
        self.client = appliance.client
        self.home = appliance.home
        origin = f"cloister/{json.loads(self.home.identity_file.read_text())['id']}/gateway"
        with self.raw() as http:
            policy = http.get("/v1/gateway/view").json()["bodies"]
        assert (policy["prompts"], policy["answers"]) == (True, False)
        key = base64.b64decode(policy["public_key"])
        self.bodies: list[SealedBody] = [
            seal_body(b"%d " % n + PROMPT, "prompt", key, origin) for n in range(len(DAYS))
        ]
        store = BodyStore(self.home.bodies)
        for body, day in zip(self.bodies, DAYS, strict=True):
            store.keep([body], day)
        store.close()
        signer = Ed25519PrivateKey.generate()
        with Ledger.open(self.home.gateway_ledger, origin=origin, signer=signer) as ledger:
            for body in self.bodies:
                ledger.append(self.entry({"prompt": body.commitment.hex()}))
            ledger.append(self.entry({}))
            ledger.append(self.entry({"prompt": "ab" * 32}))
            ledger.flush()

    @staticmethod
    def entry(digests: dict[str, str]) -> Entry:
        return Entry(
            "2026-11-21T11:00:00.000+00:00", "cl-000000000000", "api-key", "inference.intent", digests=digests
        )

    def raw(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.home.authority_socket))
        return httpx.Client(transport=transport, base_url="http://authority", timeout=60)

    def reveal(self, index: int) -> bytes:
        body, _ = received(lambda output: self.client.reveal("gateway", index, output))
        return body

    def cloister(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "CLOISTER_HOME": str(self.home.root)}
        command = [sys.executable, "-m", "cloister.cli.main", "audit", *arguments]
        return subprocess.run(command, capture_output=True, env=environment, timeout=120)

    def entries(self, action: str) -> list[tuple[str, dict[str, object]]]:
        found = self.client.search_ledger(100, action=action).entries
        return [(entry.actor, {**entry.details, **entry.digests}) for entry in found]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    root = tmp_path_factory.mktemp("bd")
    (root / "home").mkdir(mode=0o700)
    (root / "home" / "appliance.yaml").write_text("ledger: {bodies: {prompts: true}}\n")
    appliance = start_appliance(root / "home", gateway=False)
    yield Kept(appliance)
    appliance.client.close()
    embedded.stop(Home(root / "home"))


def test_a_body_is_revealed_after_its_entry_and_only_to_whoever_asked(kept: Kept) -> None:
    assert kept.reveal(1) == b"1 " + PROMPT
    who = kept.client.whoami().account
    expected = {"ledger": "gateway", "index": 1, "prompt": kept.bodies[1].commitment.hex()}
    assert kept.entries("audit.reveal")[-1] == (who, expected)
    assert not find_leaks(CANARY, [kept.home.root])


def test_the_command_writes_a_file_or_standard_output(kept: Kept, tmp_path: Path) -> None:
    plain = kept.cloister("reveal", "2")
    assert plain.stdout == b"2 " + PROMPT  # not a terminal: byte for byte
    assert b"Revealing it is entry" in plain.stderr
    target = tmp_path / "body"
    done = kept.cloister("reveal", "2", "--to", str(target), "--json")
    assert json.loads(done.stdout)["part"] == "prompt"
    assert target.read_bytes() == b"2 " + PROMPT
    assert target.stat().st_mode & 0o077 == 0
    assert kept.cloister("reveal", "2", "--to", str(target)).returncode == 4
    assert kept.cloister("reveal", "2", "--json").returncode == 2


def test_entries_without_a_body_and_a_locked_vault_reveal_nothing(kept: Kept) -> None:
    before = len(kept.entries("audit.reveal"))
    for index in (4, 5, 99):
        with pytest.raises(NotFound):
            kept.reveal(index)
    kept.client.lock(LockRequest())
    try:
        with kept.raw() as http:
            assert http.get("/v1/gateway/view").json()["bodies"]["public_key"] is None
        with pytest.raises(Locked):
            kept.reveal(1)
    finally:
        kept.client.unlock(PASSPHRASE)
    assert len(kept.entries("audit.reveal")) == before
    assert kept.reveal(1) == b"1 " + PROMPT


def test_a_body_that_was_exchanged_is_refused_and_nothing_is_written(kept: Kept) -> None:
    import sqlite3

    database = sqlite3.connect(kept.home.bodies / "sealed.db")
    swapped = "UPDATE bodies SET sealed = ? WHERE commitment = ?"
    database.execute(swapped, (kept.bodies[1].sealed, kept.bodies[3].commitment))
    database.commit()
    output: list[bytes] = []
    with pytest.raises(Tampered):
        output.append(kept.reveal(3))
    assert output == []
    database.execute(swapped, (kept.bodies[3].sealed, kept.bodies[3].commitment))
    database.commit()
    database.close()
    assert kept.reveal(3) == b"3 " + PROMPT


def test_bodies_are_shredded_one_by_one_and_by_day_and_their_entries_stay(kept: Kept) -> None:
    result = kept.client.shred_bodies(ShredBodiesRequest(body=BodyRequest(ledger="gateway", index=2)))
    assert (result.shredded, result.left) == (1, 3)
    with pytest.raises(NotFound, match="shredded: by"):
        kept.reveal(2)
    assert kept.reveal(3) == b"3 " + PROMPT
    done = kept.cloister("shred-bodies", "--before", "2026-11-20", "--yes", "--json")
    assert json.loads(done.stdout)["shredded"] == 1
    with pytest.raises(NotFound, match="shredded"):
        kept.reveal(0)
    assert kept.reveal(1) == b"1 " + PROMPT
    assert len(kept.client.search_ledger(ledger="gateway").entries) == 6
    asked, did = kept.entries("audit.shred-bodies"), kept.entries("audit.bodies-shredded")
    assert [details.get("index") for _, details in asked] == [2, None]
    assert [details["bodies"] for _, details in did] == [1, 1]
    assert kept.cloister("shred-bodies").returncode == 2
    assert kept.cloister("shred-bodies", "--before", "soon", "--yes").returncode == 2
