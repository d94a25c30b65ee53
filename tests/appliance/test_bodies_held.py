"""What a legal hold keeps of prompts and answers: those of every model that was made from what is held."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
from authority_world import World, world  # type: ignore[import-not-found]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.conftest import Appliance, start_appliance

from cloister import embedded
from cloister.api import (
    BodyRequest,
    DeploymentState,
    HoldRequest,
    JobState,
    ObjectKind,
    ShredBodiesRequest,
    ShredRequest,
)
from cloister.appliance.ids import new_id
from cloister.appliance.state import DeploymentRow, JobRow, ObjectRow, open_state
from cloister.appliance.store import Change, StateStore
from cloister.cli.receiving import received
from cloister.errors import Conflict
from cloister.home import Home
from cloister.ledger import Entry, Ledger
from cloister.vault.bodies import seal_body
from cloister.vault.body_store import BodyStore

DATASET, MODEL, OTHER = "ds-000000000001", "mm-000000000001", "mm-000000000002"
ADAPTER, DEPLOYMENT = "ad-000000000001", "dp-000000000001"
DAYS = ("2026-11-18", "2026-11-19", "2026-11-20", "2026-11-21")
MODELS = (OTHER, OTHER, MODEL, OTHER)
"""Body n is of day n, for model n."""


def plant(change: Change, deployed: DeploymentState) -> None:
    """`claims`, the model that was merged of what was trained on it, its deployment; and a model beside."""
    for object_id, kind, name in (
        (DATASET, ObjectKind.DATASET, "claims"),
        (MODEL, ObjectKind.MODEL, "claims-1"),
        (OTHER, ObjectKind.MODEL, "other"),
    ):
        change.session.add(
            ObjectRow(
                object_id=object_id,
                version=1,
                kind=kind,
                name=name,
                created_at=change.now,
                created_by="x",
                sealed_bytes=0,
                manifest_sha256="0" * 64,
                inputs=[],
                counts={},
                details={},
            )
        )
    for verb, source, made in (("train", DATASET, ADAPTER), ("merge", ADAPTER, MODEL)):
        change.session.add(
            JobRow(
                job_id=new_id("job"),
                verb=verb,
                state=JobState.DONE,
                subject=made,
                output_version=1,
                name="x",
                config={},
                inputs={"x": {"object_id": source, "version": 1, "manifest_sha256": "0" * 64}},
                requested_by="x",
                created_at=change.now,
            )
        )
    change.session.add(
        DeploymentRow(
            deployment_id=DEPLOYMENT,
            name="claims",
            model=MODEL,
            state=deployed,
            config={},
            created_at=change.now,
            created_by="x",
        )
    )


def keep(home: Home, origin: str, public_key: bytes) -> None:
    """Body n under entry n of the gateway's ledger."""
    signer = Ed25519PrivateKey.generate()
    with (
        closing(BodyStore(home.bodies)) as store,
        Ledger.open(home.gateway_ledger, origin=origin, signer=signer) as ledger,
    ):
        for day, model in zip(DAYS, MODELS, strict=True):
            body = seal_body(b"prompt of " + day.encode(), "prompt", public_key, origin)
            store.keep([body], day)
            ledger.append(
                Entry(
                    time=f"{day}T11:00:00.000+00:00",
                    actor="cl-000000000000",
                    identified_by="api-key",
                    action="inference.intent",
                    objects=(DEPLOYMENT, model),
                    digests={"prompt": body.commitment.hex()},
                )
            )
        ledger.flush()


def left(home: Home) -> int:
    with closing(BodyStore(home.bodies)) as store:
        return store.count()


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    root = tmp_path_factory.mktemp("bh") / "home"
    root.mkdir(mode=0o700)
    (root / "appliance.yaml").write_text("ledger: {bodies: {prompts: true}}\n")
    started = start_appliance(root, gateway=False)
    engine, sessions = open_state(started.home.state)
    with StateStore(sessions).change() as change:
        plant(change, DeploymentState.READY)
    engine.dispose()
    transport = httpx.HTTPTransport(uds=str(started.home.authority_socket))
    with httpx.Client(transport=transport, base_url="http://authority", timeout=60) as http:
        key = base64.b64decode(http.get("/v1/gateway/view").json()["bodies"]["public_key"])
    identity = json.loads(started.home.identity_file.read_text())["id"]
    keep(started.home, f"cloister/{identity}/gateway", key)
    yield started
    started.client.close()
    embedded.stop(started.home)


def test_a_hold_keeps_the_bodies_of_what_was_derived_until_it_is_released(appliance: Appliance) -> None:
    client, home = appliance.client, appliance.home

    def shred(before: str | None = None, index: int | None = None, ledger: str = "gateway") -> Any:
        body = None if index is None else BodyRequest(ledger=ledger, index=index)
        return client.shred_bodies(ShredBodiesRequest(body=body, before=before))

    def asked() -> int:
        return len(client.search_ledger(100, action="audit.shred-bodies").entries)

    revealed, _ = received(lambda output: client.reveal("gateway", 2, output))
    assert revealed == b"prompt of 2026-11-20"
    (reveal,) = client.search_ledger(action="audit.reveal").entries  # an entry that names no model
    hold = client.hold("claims", HoldRequest(reason="case 7"))
    words = f"a legal hold of {hold.placed_at:%Y-%m-%d} by {hold.placed_by} keeps claims .*: case 7"
    for before in ("2026-11-21", "2026-11-22"):
        with pytest.raises(Conflict, match=words) as refused:
            shred(before)
        assert "--before 2026-11-20" in refused.value.remedy
        assert "dataset release claims" in refused.value.remedy
    for number, ledger in ((2, "gateway"), (reveal.index, "control")):
        with pytest.raises(Conflict, match=words):
            shred(index=number, ledger=ledger)
    with pytest.raises(Conflict, match=words):  # its bodies would go with it
        client.shred("models", "claims-1", ShredRequest(confirm="claims-1"))
    assert (left(home), asked()) == (4, 0)
    assert shred("2026-11-20").shredded == 2  # as the refusal said
    assert shred(index=3).shredded == 1
    environment = {**os.environ, "CLOISTER_HOME": str(home.root)}
    command = [sys.executable, "-m", "cloister.cli.main", "audit", "shred-bodies", "--index", "2", "--yes"]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert told.returncode == Conflict.exit_code
    assert "case 7" in told.stderr
    assert left(home) == 1
    client.release("claims")
    assert (shred("2026-11-22").shredded, left(home)) == (1, 0)
    client.hold("claims", HoldRequest(reason="case 8"))
    today = datetime.now(UTC).date()
    assert shred(today.isoformat()).shredded == 0
    with pytest.raises(Conflict, match="case 8") as refused:  # it is served: its bodies of today come and go
        shred((today + timedelta(days=2)).isoformat())
    assert "up to today" in refused.value.remedy


def test_a_hold_that_is_placed_after_the_entry_still_keeps_them() -> None:
    async def test(here: World) -> None:
        authority = here.authority
        with authority.state.change() as change:
            plant(change, DeploymentState.STOPPED)
        keep(here.home, authority.auditing.origins["gateway"], b"\x09" + bytes(31))
        record = authority.recorder.record

        async def slowly(peer: Any, action: str, *rest: Any, **more: Any) -> int:
            index: int = await record(peer, action, *rest, **more)
            if action == "audit.shred-bodies" and "decision" not in more:
                await authority.holds.place(here.peer, "claims", "case 9")
            return index

        authority.recorder.record = slowly
        with pytest.raises(Conflict, match="case 9"):
            await authority.body_shredding.shred(here.peer, ShredBodiesRequest(before=date(2026, 11, 22)))
        assert left(here.home) == 4
        entries = [e for e in authority.ledger.entries(0, 1000) if e["action"] == "audit.shred-bodies"]
        assert [(e.get("decision"), e.get("reason")) for e in entries] == [
            (None, None),
            ("abandoned", "conflict"),
        ]

    async def inside() -> None:
        async with world() as here:
            await test(here)

    asyncio.run(inside())
