"""OpenSSF signatures: the independent verifier takes ours and finds each change; so does OpenSSF's own, where it is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.openssf_verifier import NotVerifiedError, verify

from cloister.models import openssf

SECRET = bytes(range(32))
KEY = openssf.signing_key(SECRET)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A signed folder called `claims`."""
    made = tmp_path / "claims"
    made.mkdir()
    files = {"config.json": b"{}", "model.safetensors": os.urandom(3_000_000), "chat_template.jinja": b""}
    for name, content in files.items():
        (made / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).digest() for name, content in files.items()}
    (made / "model.sig").write_bytes(openssf.signature("claims", digests, KEY))
    return made


def test_the_key_is_that_of_its_secret_on_p256() -> None:
    again = openssf.signing_key(SECRET)
    assert openssf.public_pem(again) == openssf.public_pem(KEY)
    assert openssf.public_pem(openssf.signing_key(bytes(32))) != openssf.public_pem(KEY)
    assert isinstance(KEY.curve, ec.SECP256R1)
    with pytest.raises(ValueError, match="32 bytes"):
        openssf.signing_key(b"short")


def test_a_folder_that_was_signed_verifies(folder: Path) -> None:
    statement = verify(folder, openssf.public_pem(KEY))
    assert statement["subject"][0]["name"] == "claims"


def _resigned(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """The bundle with a changed statement, its signature as it was."""
    bundle = json.loads((folder / "model.sig").read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (folder / "model.sig").write_text(json.dumps(bundle))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight changed": (lambda f: (f / "model.safetensors").write_bytes(b"other"), "each file"),
    "a file more": (lambda f: (f / "more.json").write_bytes(b"{}"), "each file"),
    "a file less": (lambda f: (f / "config.json").unlink(), "each file"),
    "another name": (
        lambda f: _resigned(f, lambda s: s["subject"][0].update(name="other")),  # type: ignore[index]
        "the signature",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_each_change_is_found(folder: Path, what: str) -> None:
    spoil, rule = SPOILT[what]
    spoil(folder)
    with pytest.raises(NotVerifiedError, match=rule):
        verify(folder, openssf.public_pem(KEY))


def test_another_key_is_found(folder: Path) -> None:
    with pytest.raises(NotVerifiedError, match="hint"):
        verify(folder, openssf.public_pem(openssf.signing_key(bytes(32))))


@pytest.mark.parametrize("what", ["nothing", *SPOILT])
def test_openssfs_own_verifier_agrees(folder: Path, tmp_path: Path, what: str) -> None:
    tool = os.environ.get("MODEL_SIGNING") or shutil.which("model_signing")
    if tool is None:
        pytest.skip("OpenSSF's model_signing is not installed; name its program in MODEL_SIGNING")
    public = tmp_path / "key.pem"
    public.write_bytes(openssf.public_pem(KEY))
    if what != "nothing":
        SPOILT[what][0](folder)
    command = [tool, "verify", "key", str(folder), "--signature", str(folder / "model.sig")]
    told = subprocess.run([*command, "--public_key", str(public)], capture_output=True, text=True)
    said = "Verification succeeded" if what == "nothing" else "Verification failed"
    assert said in told.stdout + told.stderr
    assert (told.returncode == 0) is (what == "nothing")
