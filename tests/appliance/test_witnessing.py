"""Anchors and witnesses in the authority: what is entered, what is taken in, and what the status says."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister import verifier
from cloister.api import CosignedHead, HeadsLeft
from cloister.appliance.anchors import Anchors
from cloister.appliance.ballast import Ballast
from cloister.appliance.owed import Owed
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import open_state
from cloister.appliance.store import StateStore
from cloister.appliance.witnessing import Witnessing
from cloister.copies import LEDGERS, cosigned_in
from cloister.errors import Conflict, InvalidInput, Tampered
from cloister.home import Home
from cloister.ledger import Entry, Ledger
from cloister.ledger.export import LogFolder, carry
from cloister.policy.settings import LedgerSettings

SIGNER = Ed25519PrivateKey.from_private_bytes(b"\x51" * 32)
CONTROL, GATEWAY = "cloister.test/control", "cloister.test/gateway"


class Site:
    """A home's two ledgers with what the authority does about them, and a clock that can be moved."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        self.home.make()
        self.stick, self.state = root / "stick", root / "state"
        self.control = Ledger.open(self.home.control_ledger, origin=CONTROL, signer=SIGNER)
        self._engine, sessions = open_state(self.home.state)
        self.owed = Owed(StateStore(sessions))
        self.recorder = Recorder(self.control, Ballast(root / "ballast"), self.owed)
        self.anchors = Anchors(self.home, self.recorder)
        self.now = datetime.now(UTC)

    def gateway(self, count: int = 1, signer: Ed25519PrivateKey = SIGNER) -> None:
        with Ledger.open(self.home.gateway_ledger, origin=GATEWAY, signer=signer) as ledger:
            for number in range(count):
                ledger.append(Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": number}))

    def step(self) -> bool:
        return asyncio.run(self.anchors.step())

    def entries(self, action: str) -> list[dict[str, Any]]:
        return [entry for entry in self.control.entries(0, self.control.size) if entry["action"] == action]

    def witnessing(self, *witnesses: str, period: str = "7d") -> Witnessing:
        settings = LedgerSettings(witnesses=witnesses, witness_period=period)
        return Witnessing(self.home, settings, self.recorder, clock=lambda: self.now)

    def carry(self) -> dict[str, int]:
        self.control.flush()
        carried = {name: carry(LogFolder(self.home.ledger(name)), self.stick / name) for name in LEDGERS}
        return {name: one.size for name, one in carried.items() if one is not None}

    def visit(self) -> str:
        keys = [verifier.parse_vkey(self.control.vkey)]
        with verifier.Witness(self.state, "witness.test/w") as witness:
            results = witness.visit(self.stick, keys)
            assert not [line for result in results for line in result.problems]
            return str(witness.key)

    def take_in(self, witnessing: Witnessing) -> list[str]:
        taken = []
        for head in cosigned_in(self.stick):
            request = CosignedHead.model_validate({"ledger": head.ledger, "note": head.note})
            taken += [one.witness for one in asyncio.run(witnessing.take_in(None, request))]
        return taken

    def problems(self) -> list[str]:
        self.control.flush()
        keys = [verifier.parse_vkey(self.control.vkey)]
        reports = verifier.verify_folder(self.home.control_ledger.parent, keys)
        return [line for report in reports.values() for line in report.problems]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.control.close()


# --- anchors -----------------------------------------------------------------------------------------------


def test_a_head_is_anchored_when_it_has_changed_also_across_a_restart(site: Site) -> None:
    assert not site.step(), "there is no gateway yet"
    site.gateway(3)
    assert site.step()
    assert not site.step()
    site.gateway(2)
    site.anchors = Anchors(site.home, site.recorder)
    assert site.step()
    site.anchors = Anchors(site.home, site.recorder)
    assert not site.step(), "it knows the last one from the ledger"
    assert [entry["details"]["size"] for entry in site.entries("ledger.anchor")] == [3, 5]
    assert site.problems() == []


def test_a_gateway_ledger_that_contradicts_its_anchor_is_entered_once_and_shown(site: Site) -> None:
    site.gateway(5)
    site.step()
    good = site.home.root / "good"
    shutil.copytree(site.home.gateway_ledger, good)
    for build, found in (
        (lambda: site.gateway(2), "rolled back"),
        (lambda: [site.gateway(1), site.gateway(7)], "forked"),
        (lambda: site.gateway(9, Ed25519PrivateKey.from_private_bytes(b"\x52" * 32)), "another name or key"),
    ):
        shutil.rmtree(site.home.gateway_ledger)
        build()
        assert not site.step()
        assert not site.step()
        assert found in (site.anchors.problem or "")
        assert found in site.entries("ledger.contradiction")[-1]["reason"]
        assert site.problems()
    assert len(site.entries("ledger.contradiction")) == 3
    shutil.rmtree(site.home.gateway_ledger)
    assert not site.step()
    assert "gone" in (site.anchors.problem or "")
    shutil.copytree(good, site.home.gateway_ledger)
    assert not site.step()
    assert site.anchors.problem is None
    assert site.problems() == []


# --- what has left, and what came back ----------------------------------------------------------------------


def test_unwitnessed_until_a_head_has_left_and_again_after_the_period(site: Site) -> None:
    site.gateway(3)
    witnessing = site.witnessing(period="36h")
    site.recorder.ledger.append(Entry("2026-01-01T00:00:00Z", "a", "b", "c"))
    site.control.flush()
    (control, gateway) = witnessing.warnings()
    assert "UNWITNESSED" in control
    assert "since 2026-01-01 00:00 UTC; next: `cloister audit carry" in control
    assert "gateway" in gateway
    asyncio.run(witnessing.left(None, HeadsLeft.model_validate({"sizes": site.carry(), "how": "carry"})))
    assert witnessing.warnings() == []
    assert all(one.left_at is not None and one.overdue_since is None for one in witnessing.state())
    site.now += timedelta(hours=37)
    assert len(site.witnessing(period="36h").warnings()) == 2
    assert site.witnessing(period="2d").warnings() == []


def test_a_head_that_was_never_signed_has_not_left(site: Site) -> None:
    with pytest.raises(InvalidInput):
        asyncio.run(
            site.witnessing().left(None, HeadsLeft.model_validate({"sizes": {"control": 9}, "how": "export"}))
        )
    assert site.entries("ledger.left") == []


def test_a_cosignature_of_a_named_witness_is_taken_in_once(site: Site) -> None:
    site.gateway(3)
    site.step()
    site.carry()
    vkey = site.visit()
    witnessing = site.witnessing(vkey)
    assert len(witnessing.warnings()) == 2, "what is named must cosign; that a head left is not enough"
    assert site.take_in(witnessing) == ["witness.test/w"] * 2
    assert site.take_in(witnessing) == []
    assert witnessing.warnings() == []
    assert [entry["details"]["ledger"] for entry in site.entries("ledger.cosigned")] == ["control", "gateway"]
    site.now += timedelta(days=8)
    assert "no witness has cosigned the control ledger" in witnessing.warnings()[0]


def test_a_stranger_a_forger_and_a_changed_ledger_are_refused(site: Site, tmp_path: Path) -> None:
    site.recorder.ledger.append(Entry("2026-01-01T00:00:00Z", "a", "b", "c"))
    site.carry()
    vkey = site.visit()
    with pytest.raises(Conflict, match="no witness is named"):
        site.take_in(site.witnessing())
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(InvalidInput, match="no witness that the settings name"):
        site.take_in(site.witnessing(str(verifier._key("witness.test/other", 4, public))))
    (head,) = cosigned_in(site.stick)
    forged = head.path.read_text()
    line = forged.splitlines()[-1]
    head.path.write_text(forged.replace(line[-20:], "A" * 18 + "=="))
    with pytest.raises(InvalidInput):
        site.take_in(site.witnessing(vkey))
    head.path.write_text(forged)
    site.now -= timedelta(hours=1)
    with pytest.raises(InvalidInput, match="future"):
        site.take_in(site.witnessing(vkey))
    site.now += timedelta(hours=1)
    site.control.close()
    shutil.rmtree(site.home.control_ledger)
    site.control = Ledger.open(site.home.control_ledger, origin=CONTROL, signer=SIGNER)
    site.recorder = Recorder(site.control, Ballast(tmp_path / "ballast2"), site.owed)
    with pytest.raises(Tampered, match="rolled back"):
        site.take_in(site.witnessing(vkey))
    for number in range(5):
        site.control.append(Entry("2026-02-01T00:00:00Z", "a", "b", "c", details={"n": number}))
    site.control.flush()
    with pytest.raises(Tampered, match="does not continue"):
        site.take_in(site.witnessing(vkey))
    assert not (site.home.control_ledger / "cosigned").exists()


def test_settings_refuse_what_is_no_witness_and_no_period() -> None:
    for bad in ({"witnesses": ["x"]}, {"witness_period": "soon"}, {"witness_period": "0d"}):
        with pytest.raises(ValueError, match="witness"):
            LedgerSettings.model_validate(bad)
