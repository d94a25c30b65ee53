"""The auditor's commands over a running appliance: prove, export, carry, witness, take in, verify."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_shell import Shell
from tests.conftest import PASSPHRASE

from cloister import embedded


@pytest.fixture
def cloister(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("audit") / "home")
    shell.home.root.mkdir()
    shell.settings()
    shell("up")
    shell("init", "--passphrase-fd", "0", stdin=PASSPHRASE)
    yield shell
    embedded.stop(shell.home)


def test_from_unwitnessed_to_a_cosigned_proof(cloister: Shell, tmp_path: Path) -> None:
    key = cloister("audit", "key").stdout.strip()
    assert "UNWITNESSED" in cloister("audit", "status").stdout
    stick, state = tmp_path / "stick", tmp_path / "witness"
    carried = cloister.json("audit", "carry", str(stick))
    assert set(carried["ledgers"]) == {"control", "gateway"}
    assert "UNWITNESSED" not in cloister("status").stderr

    script = tmp_path / "verifier.py"
    script.write_text(cloister("audit", "verifier").stdout)
    visit = [sys.executable, "-I", str(script), "witness", str(stick), "--state", str(state), "--json"]
    first = json.loads(subprocess.run([*visit, "--key", key], capture_output=True, text=True).stdout)
    assert first["ok"], "the control ledger's key is enough: it anchors the gateway's"
    assert "no witness is named" in cloister("audit", "take-in", str(stick)).stderr

    cloister.settings("ledger:", f"  witnesses: ['{first['witness']}']")
    cloister("down")
    cloister("up")
    cloister("unlock", "--passphrase-fd", "0", stdin=PASSPHRASE)
    assert "UNWITNESSED" in cloister("status").stderr
    taken = cloister.json("audit", "carry", str(stick))["cosignatures"]
    assert {one["ledger"] for one in taken} == {"control", "gateway"}
    assert "UNWITNESSED" not in cloister("status").stderr
    assert cloister.json("audit", "status")["witnessed"]
    second = cloister.json("witness", str(stick), "--state", str(state))
    assert second["ok"]
    assert all(log["before"] for log in second["ledgers"])

    proof = tmp_path / "entry.tlog-proof"
    cloister("audit", "prove", "0", "-o", str(proof))
    cloister("audit", "prove", "0", "-o", str(proof), code=4)
    cloister("audit", "prove", "100000", code=3)
    good = cloister.json("audit", "verify", str(proof), "--key", key, "--witness", first["witness"])
    assert good["index"] == 0
    assert good["cosignatures"][0]["witness"] == first["witness"].partition("+")[0]
    alone = [sys.executable, "-I", str(script), "verify", str(proof), "--key", key]
    assert subprocess.run(alone, capture_output=True).returncode == 0
    proof.write_text(proof.read_text().replace("index 0", "index 1"))
    assert not cloister.json("audit", "verify", str(proof), "--key", key, code=7)["ok"]


def test_an_export_is_one_key_and_one_command_and_shows_what_was_changed(
    cloister: Shell, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    head = tmp_path / "head"
    key = cloister("audit", "key").stdout.strip()
    cloister("audit", "export", str(copy))
    cloister("audit", "export", str(copy), code=4)
    head.write_bytes((copy / "control" / "checkpoint").read_bytes())
    report = cloister.json("audit", "verify", str(copy), "--key", key, "--since", str(head))
    assert [log["anchors"] for log in report["ledgers"]] == [0, 1]
    gone = tmp_path / "gone"
    (copy / "gateway").rename(gone)
    assert "that log is missing" in cloister("audit", "verify", str(copy), "--key", key, code=7).stdout
    assert cloister.json("audit", "verify", "--since", str(head))["ok"]
    cloister("audit", "verify", str(tmp_path / "nothing"), code=3)
    cloister("audit", "verify", str(gone), "--key", "nonsense+1+2", code=2)
