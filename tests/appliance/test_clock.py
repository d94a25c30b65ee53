"""A clock that goes back: entries keep their order, and say so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.appliance.ballast import Ballast
from cloister.appliance.owed import Owed
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import open_state
from cloister.appliance.store import StateStore
from cloister.ledger import Ledger
from cloister.ledger.query import Query, search
from cloister.ledger.reading import CheckedReader
from cloister.verifier import verify_log

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def _record(recorder: Recorder, actions: list[str]) -> None:
    for action in actions:
        await recorder.record(None, action)


def test_entries_keep_their_order_and_say_how_far_the_clock_went_back(tmp_path: Path) -> None:
    import asyncio

    moments = [NOON, NOON + timedelta(seconds=5), NOON - timedelta(hours=2), NOON - timedelta(hours=1), NOON]
    left = iter(moments)
    engine, sessions = open_state(tmp_path / "state.db")
    signer = Ed25519PrivateKey.generate()
    with Ledger.open(tmp_path / "log", origin="cloister/test/control", signer=signer) as ledger:
        ballast = Ballast(tmp_path / "ballast", size=4096, low=0)
        recorder = Recorder(ledger, ballast, Owed(StateStore(sessions)), clock=lambda: next(left))
        asyncio.run(_record(recorder, ["a", "b", "c", "d", "e"]))
        ledger.flush()
        entries = list(ledger.entries(0, 5))
        assert [entry["action"] for entry in entries] == ["a", "b", "c", "d", "e"]
        assert [entry["time"] for entry in entries] == [m.isoformat(timespec="microseconds") for m in moments]
        assert [entry["details"].get("clock_back_s") for entry in entries] == [None, None, 7205.0, None, None]
        assert verify_log(tmp_path / "log", ledger.vkey).problems == []
        found = search(CheckedReader(ledger.snapshot()), None, Query(since=NOON), 10)
        assert [match.index for match in found.matches] == [0, 1, 4]
    engine.dispose()
