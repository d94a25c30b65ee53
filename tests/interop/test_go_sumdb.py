"""Other people's tools read our log: Go's sumdb packages verify an export, a proof and a cosignature.

Runs where Go and Debian's golang-golang-x-mod-dev are installed; nothing is fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister import verifier
from cloister.ledger import Entry, Ledger
from cloister.ledger.export import LogFolder, carry
from cloister.ledger.proof import prove

GOPATH = Path("/usr/share/gocode")
ORIGIN = "cloister.test/go"
SIGNER = Ed25519PrivateKey.from_private_bytes(b"\x17" * 32)
SIZE = 70_000 // 16
"""17 full bundles and a partial one."""


@pytest.fixture(scope="module")
def checklog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip("Go with golang-golang-x-mod-dev is not installed")
    folder = tmp_path_factory.mktemp("go")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GOPATH": str(GOPATH),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPROXY": "off",
        "GOCACHE": str(folder / "cache"),
        "CGO_ENABLED": "0",
    }
    source = Path(__file__).parent / "checklog" / "main.go"
    command = [go, "build", "-o", str(folder / "checklog"), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr
    return folder / "checklog"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A carried copy that a witness has cosigned, and the witness's key."""
    folder = tmp_path_factory.mktemp("copied")
    with Ledger.open(folder / "log", origin=ORIGIN, signer=SIGNER) as ledger:
        for future in [
            ledger.submit(Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": number}))
            for number in range(SIZE)
        ]:
            future.result()
        vkey = ledger.vkey
    carry(LogFolder(folder / "log"), folder / "copy")
    with verifier.Witness(folder / "state", "witness.test/go") as witness:
        (visited,) = witness.visit(folder / "copy", [verifier.parse_vkey(vkey)])
        assert visited.problems == []
        return folder / "copy", str(witness.key)


def run(checklog: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(checklog), *arguments], capture_output=True, text=True, timeout=120)


def test_go_verifies_head_tiles_entries_cosignature_and_proof(
    checklog: Path, copy: tuple[Path, str], tmp_path: Path
) -> None:
    folder, witness = copy
    vkey = (folder / "vkey").read_text().strip()
    proof = tmp_path / "entry.tlog-proof"
    proof.write_text(prove(folder, 4000))
    done = run(checklog, str(folder), vkey, witness, str(proof))
    assert (done.returncode, done.stdout) == (0, f"verified {SIZE} entries\n"), done.stdout + done.stderr


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/003", "tile/1/000.p/17", "tile/entries/005"])
def test_go_refuses_what_was_changed(
    checklog: Path, copy: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    broken = Path(shutil.copytree(copy[0], tmp_path / "broken"))
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / name).write_bytes(bytes(data))
    vkey = (broken / "vkey").read_text().strip()
    assert run(checklog, str(broken), vkey).returncode == 1
    assert not verifier.verify_log(broken, vkey).ok


def test_go_refuses_another_witness(checklog: Path, copy: tuple[Path, str]) -> None:
    folder, _ = copy
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    stranger = str(verifier._key("witness.test/go", 4, public))
    done = run(checklog, str(folder), (folder / "vkey").read_text().strip(), stranger)
    assert done.returncode == 1
    assert "witness" in done.stdout
