"""The witness: what it keeps, what it cosigns, and what makes it refuse."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister import verifier
from cloister.ledger import Entry, Ledger
from cloister.ledger.note import VerifierKey

SIGNER = Ed25519PrivateKey.from_private_bytes(b"\x31" * 32)
CONTROL, GATEWAY = "cloister.test/control", "cloister.test/gateway"
KEY = verifier.parse_vkey(str(VerifierKey.of(CONTROL, SIGNER)))
GATEWAY_VKEY = str(VerifierKey.of(GATEWAY, SIGNER))


def append(root: Path, count: int, origin: str = CONTROL, **details: object) -> None:
    with Ledger.open(root, origin=origin, signer=SIGNER) as ledger:
        for number in range(count):
            ledger.submit(Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": number}))


def anchor(folder: Path, **changed: object) -> None:
    """Enter the gateway's head in the control ledger, as the authority does."""
    note = (folder / "gateway" / "checkpoint").read_text()
    head = verifier.parse_tree_head(note.partition("\n\n")[0] + "\n")
    details = {"origin": GATEWAY, "size": head.size, "vkey": GATEWAY_VKEY, **changed}
    root = str(details.pop("root", head.root.hex()))
    with Ledger.open(folder / "control", origin=CONTROL, signer=SIGNER) as ledger:
        ledger.append(
            Entry(
                "2026-01-01T00:00:00Z",
                "cloisterd",
                "self",
                "ledger.anchor",
                digests={"root": root},
                details=details,
            )
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A control ledger that anchors a gateway's, four times."""
    folder = tmp_path / "logs"
    for _ in range(4):
        append(folder / "gateway", 130, GATEWAY)
        append(folder / "control", 90)
        anchor(folder)
    return folder


def visit(folder: Path, state: Path, *keys: verifier.VerifierKey) -> dict[str, verifier.Witnessed]:
    with verifier.Witness(state, "witness.test/w") as witness:
        return {result.origin: result for result in witness.visit(folder, keys)}


# --- anchors -----------------------------------------------------------------------------------------------


def problems(folder: Path) -> list[str]:
    reports = verifier.verify_folder(folder, [KEY])
    return [line for report in reports.values() for line in report.problems]


def test_one_key_checks_every_anchored_log(folder: Path) -> None:
    reports = verifier.verify_folder(folder, [KEY])
    assert [(path.name, report.problems, report.anchors) for path, report in reports.items()] == [
        ("control", [], 0),
        ("gateway", [], 4),
    ]


def test_an_anchored_log_that_is_missing_rolled_back_forked_or_resigned_is_found(
    folder: Path, tmp_path: Path
) -> None:
    gateway = folder / "gateway"
    good = shutil.copytree(gateway, tmp_path / "good")
    shutil.rmtree(gateway)
    assert "is anchored here, and that log is missing" in "".join(problems(folder))
    append(gateway, 300, GATEWAY)
    assert "rolled back: the tree head in entry 363 of control of 520 entries" in "".join(problems(folder))
    append(gateway, 400, GATEWAY)
    assert "forked: it does not continue the tree head in entry 181 of control" in "".join(problems(folder))
    shutil.rmtree(gateway)
    other = Ed25519PrivateKey.from_private_bytes(b"\x32" * 32)
    with Ledger.open(gateway, origin=GATEWAY, signer=other) as ledger:
        ledger.append(Entry("2026-01-01T00:00:00Z", "a", "b", "c"))
    assert f"the note is not signed by {GATEWAY}" in "".join(problems(folder))
    shutil.rmtree(gateway)
    shutil.copytree(good, gateway)
    assert problems(folder) == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"size": 100}, "rolled back"),
        (
            {"vkey": str(VerifierKey.of(GATEWAY, Ed25519PrivateKey.from_private_bytes(b"\x33" * 32)))},
            "another key",
        ),
        ({"root": "00" * 32}, "forked"),
        ({"size": -1}, "malformed anchor"),
        ({"size": True}, "malformed anchor"),
        ({"vkey": "x"}, "malformed anchor"),
        ({"root": "zz"}, "malformed anchor"),
    ],
)
def test_anchors_that_contradict_each_other_are_found(
    folder: Path, changed: dict[str, object], found: str
) -> None:
    anchor(folder, **changed)
    assert any(found in line for line in problems(folder)), problems(folder)


# --- the witness ---------------------------------------------------------------------------------------------


def test_it_makes_a_private_key_once_and_cosigns_what_continues(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = visit(folder, state, KEY)
    assert [result.problems for result in first.values()] == [[], []]
    assert stat.S_IMODE((state / "witness.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    vkey = (state / "witness.vkey").read_text()
    append(folder / "gateway", 50, GATEWAY)
    append(folder / "control", 50)
    second = visit(folder, state)  # the keys are known by now
    assert second[GATEWAY].before == 520
    assert second[GATEWAY].size == 570
    assert second[CONTROL].time is not None
    assert (state / "witness.vkey").read_text() == vkey
    witness = verifier.parse_witness_vkey(vkey)
    reports = verifier.verify_folder(folder, [KEY], witnesses=[witness])
    assert all(report.ok for report in reports.values())
    assert [report.cosignatures[0].size for report in reports.values()] == [414, 570]


def test_it_asks_for_the_key_of_a_log_that_it_has_not_seen(folder: Path, tmp_path: Path) -> None:
    found = visit(folder, tmp_path / "state")
    assert all(result.time is None and "no key was given" in result.problems[0] for result in found.values())
    assert not list((tmp_path / "state").glob("*.head"))


def test_it_refuses_another_key_for_a_log_that_it_knows(folder: Path, tmp_path: Path) -> None:
    visit(folder, tmp_path / "state", KEY)
    other = verifier.parse_vkey(
        str(VerifierKey.of(CONTROL, Ed25519PrivateKey.from_private_bytes(b"\x34" * 32)))
    )
    with pytest.raises(verifier.VerificationError, match="another key before"):
        visit(folder, tmp_path / "state", other)


def test_a_key_that_others_may_read_is_refused(folder: Path, tmp_path: Path) -> None:
    visit(folder, tmp_path / "state", KEY)
    (tmp_path / "state" / "witness.key").chmod(0o644)
    with pytest.raises(verifier.VerificationError, match="only its owner"):
        visit(folder, tmp_path / "state", KEY)


def test_a_crash_before_the_cosignature_is_given_away_loses_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verifier._write

    def fails(path: Path, data: bytes) -> None:
        if path.parent.name == "cosigned":
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(verifier, "_write", fails)
    with pytest.raises(OSError, match="No space"):
        visit(folder, tmp_path / "state", KEY)
    monkeypatch.undo()
    found = visit(folder, tmp_path / "state", KEY)
    assert found[CONTROL].before == found[CONTROL].size
    assert not found[CONTROL].problems


def test_nothing_is_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (folder / "control" / "cosigned").symlink_to(victim)
    results = visit(folder, tmp_path / "state", KEY)
    assert results[CONTROL].time is None
    assert not list(victim.iterdir())


def test_the_command_of_the_one_file(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "verifier.py"
    shutil.copy(verifier.__file__, script)
    command = [sys.executable, "-I", str(script), "witness", str(folder), "--state", str(tmp_path / "s")]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    stranger = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert stranger.returncode == 1
    assert "--key" in stranger.stdout
    done = subprocess.run([*command, "--key", str(KEY), "--json"], capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert answer["ok"]
    assert all(log["time"] >= time.time() - 600 for log in answer["ledgers"])
