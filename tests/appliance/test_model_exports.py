"""Exports through the real sockets and sandboxes: what comes out, what is entered, what is refused and cut off."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pyrage
import pytest
from tests.appliance.planted import files_of, plant_models
from tests.appliance.test_shredding import entries, verified
from tests.cli.cli_shell import Shell
from tests.conftest import PASSPHRASE, Appliance
from tests.openssf_verifier import verify
from tests.pipeline.test_kills import worker_pids

from cloister.api import ExportRequest, Job, JobState, LockRequest, PolicyQuestion, ShredRequest
from cloister.demo.search import find_bytes, find_leaks
from cloister.errors import Conflict, InvalidInput

CANARY = "canary-of-weights-51f2"
FILES = files_of(CANARY.encode(), 5 << 20)
IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
PLAIN = ExportRequest(form="plain")
ENCRYPTED = ExportRequest(form="encrypted", recipients=(RECIPIENT,))


@pytest.fixture(scope="module")
def house(appliance: Appliance) -> Appliance:
    """With two models of public data, `open` and `big`, and one of confidential data, `secret`."""
    plant_models(
        appliance,
        {
            "open": ("public", FILES),
            "secret": ("confidential", FILES),
            "big": ("public", files_of(b"x", 60 << 20)),
        },
    )
    return appliance


@pytest.fixture
def shell(house: Appliance) -> Shell:
    return Shell(house.home.root)


def since(house: Appliance, mark: int) -> list[Any]:
    """What was entered since, but for alerts and the gateway's own entries, which come when they come."""
    return [e for e in entries(house) if e.index >= mark and not e.action.startswith(("alert.", "gateway."))]


def mark(house: Appliance) -> int:
    return house.client.ledger().entries


def test_plain_it_comes_out_whole_signed_and_entered_before_and_after(
    house: Appliance, shell: Shell, tmp_path: Path
) -> None:
    began = mark(house)
    told = shell.json("model", "export", "open", str(tmp_path / "out"), "--plain")
    out = tmp_path / "out"
    assert told == {"folder": str(out), "form": "plain", "files": 7, "bytes": told["bytes"]}
    assert {name: (out / name).read_bytes() for name in FILES} == FILES
    key = shell.json("model", "signing-key")
    assert shell("model", "signing-key").stdout == key["public_key"]
    assert (out / "model-signing.pub.pem").read_text() == key["public_key"]
    verify(out, key["public_key"].encode())

    model = house.client.model("open")
    made = since(house, began)
    intent = next(entry for entry in made if entry.action == "model.export")
    done = next(entry for entry in made if entry.action == "model.exported")
    assert [e.action for e in made] == ["model.export", "job.export", "job.done", "model.exported"]
    assert intent.decision == "intended" and intent.details["form"] == "plain"
    assert intent.details["classification"] == "public" and model.object_id in intent.objects
    assert intent.digests == {"manifest": model.manifest_sha256, "signing_key": key["sha256"]}
    assert done.details["intent"] == intent.index and done.objects == intent.objects
    assert (done.details["files"], done.details["bytes"]) == (7, told["bytes"])
    record = json.loads((out / "export.json").read_text())
    assert record["ledger"] == {"origin": house.client.ledger().origin, "index": intent.index}
    assert record["model"]["manifest_sha256"] == model.manifest_sha256
    assert record["classification"] == "public" and record["approval"] is None
    verified(house)
    _nothing_of_it_is_left_here(house)
    assert find_leaks(CANARY, [out]) != []


def _nothing_of_it_is_left_here(house: Appliance) -> None:
    """No weight, and no plain digest of one: neither in the state nor in the ledger nor in a log."""
    weights = hashlib.sha256(FILES["model.safetensors"])
    for sought in (CANARY, weights.hexdigest()):
        assert find_leaks(sought, [house.home.root]) == []
    assert find_bytes([weights.digest()], [house.home.root]) == []


def test_encrypted_it_opens_with_the_recipients_key_alone(
    house: Appliance, shell: Shell, tmp_path: Path
) -> None:
    began = mark(house)
    shell.json("model", "export", "secret", str(tmp_path / "out"), "--recipient", RECIPIENT)
    (archive,) = (tmp_path / "out").iterdir()
    assert CANARY.encode() not in archive.read_bytes()
    _nothing_of_it_is_left_here(house)
    opened = pyrage.decrypt(archive.read_bytes(), [IDENTITY])
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=opened, check=True)
    verify(tmp_path / "secret", shell.json("model", "signing-key")["public_key"].encode())
    assert (tmp_path / "secret" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    digests = [e.digests["recipients"] for e in since(house, began) if e.action.startswith("model.export")]
    assert digests == [hashlib.sha256(f"{RECIPIENT}\n".encode()).hexdigest()] * 2


def test_what_is_refused_leaves_nothing(house: Appliance, shell: Shell, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    began = mark(house)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    refused: list[tuple[int, tuple[str, ...], str]] = [
        (2, ("open", out), "encrypted or in the clear"),
        (2, ("open", out, "-r", "age1nobody"), "recipient"),
        (2, ("open", str(house.home.root / "x"), "--plain"), "home"),
        (4, ("open", str(tmp_path / "full"), "--plain"), "not empty"),
        (6, ("secret", out, "--plain"), "confidential-models-leave-encrypted"),
    ]
    for code, words, said in refused:
        told = shell("model", "export", *words, code=code)
        assert said in told.stderr, (words, told.stderr)
    assert {entry.action for entry in since(house, began)} == {"access.deny"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
    assert not (house.home.root / "x").exists()
    house.client.lock(LockRequest())
    try:
        assert "locked" in shell("model", "export", "open", out, "--plain", code=5).stderr
    finally:
        house.client.unlock(PASSPHRASE)
    assert not list(tmp_path.glob("out*"))


def test_explain_says_how_a_model_may_leave(house: Appliance) -> None:
    def asked(**more: Any) -> tuple[str, list[str]]:
        answer = house.client.explain(PolicyQuestion(action="model.export", thing="secret", **more))
        return answer.demand, answer.policies

    assert asked(form="encrypted") == ("yes", ["sole-account-may-everything"])
    assert asked(form="plain") == asked() == ("no", ["confidential-models-leave-encrypted"])
    with pytest.raises(InvalidInput, match="no such forms"):
        house.client.explain(PolicyQuestion(action="run.start", form="plain"))


def test_explain_of_a_model_that_was_never_served_is_about_that_model(house: Appliance) -> None:
    def asked(thing: str | None) -> tuple[str | None, bool]:
        answer = house.client.explain(PolicyQuestion(action="deployment.start", thing=thing))
        return answer.classification, "what-went-wrong-is-measured-before-it-serves" in answer.policies

    assert (asked("open"), asked("secret")) == (("public", False), ("confidential", False))
    assert asked("no-such-model") == asked(None) == ("restricted", True)


@contextlib.contextmanager
def stalled(house: Appliance, model: str = "open") -> Iterator[tuple[Job, FileIO, int]]:
    """An export that runs and waits for a reader: the job, the pipe's reading end, and a mark in the ledger."""
    began = mark(house)
    pipe, writing = os.pipe()
    with FileIO(pipe) as reading:
        job = house.client.export_model(model, PLAIN, writing)
        os.close(writing)
        end = time.monotonic() + 120
        while (job := house.client.job(job.job_id)).progress is None:
            assert time.monotonic() < end, job
            time.sleep(0.02)
        assert job.state == JobState.RUNNING
        yield job, reading, began


def ended(house: Appliance, job: Job) -> Job:
    *_, last = house.client.watch_job(job.job_id)
    return last


def test_a_reader_that_goes_away_ends_the_export_and_it_is_entered(house: Appliance) -> None:
    with stalled(house) as (job, reading, began):
        reading.close()
        last = ended(house, job)
    assert last.state == JobState.FAILED and last.error is not None
    assert "nobody takes" in last.error.detail
    made = since(house, began)
    assert [e.action for e in made] == ["model.export", "job.export", "job.failed"]
    assert all(job.job_id in entry.objects for entry in made)


def test_a_worker_that_is_killed_ends_the_export_and_it_is_entered(house: Appliance) -> None:
    with stalled(house) as (job, reading, began):
        os.kill(worker_pids(house)[-1], signal.SIGKILL)
        last = ended(house, job)
        assert last.state == JobState.INTERRUPTED
        while reading.read(1 << 20):
            pass
    assert [e.action for e in since(house, began)][-1] == "job.interrupted"


def test_the_model_is_not_shredded_meanwhile_and_a_cancelled_export_ends(house: Appliance) -> None:
    with stalled(house) as (job, reading, began):
        with pytest.raises(Conflict, match="in use"):
            house.client.shred("models", "open", ShredRequest(confirm="open"))
        house.client.cancel_job(job.job_id)
        assert ended(house, job).state == JobState.CANCELLED
        reading.close()
    assert "job.cancel" in [e.action for e in since(house, began)]


def test_an_export_goes_on_while_the_authority_restarts(house: Appliance, tmp_path: Path) -> None:
    with stalled(house) as (job, reading, began):
        house.restart_authority()
        came = b""
        while piece := reading.read(1 << 20):
            came += piece
        assert ended(house, job).state == JobState.DONE
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=came, check=True)
    verify(tmp_path / "open", house.client.model_signing_key().public_key.encode())
    assert [e.action for e in since(house, began)][-1] == "model.exported"


STOPPING = """
import os, signal, sys
from types import SimpleNamespace
import cloister.cli.main as command
from cloister.targets import ExportFolder

write, stopped = ExportFolder._write, []

def writing(self, name, source):
    def read(size):
        if name == "model.safetensors" and not stopped:
            stopped.append(source.read(size))
            os.kill(os.getpid(), signal.SIGSTOP)
            return stopped[0]
        return source.read(size)
    return write(self, name, SimpleNamespace(read=read))

ExportFolder._write = writing
command.main()
"""
"""The command, which stops once the first of the weights have come."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_cut_off_leaves_no_folder_that_looks_complete(
    house: Appliance, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "CLOISTER_HOME": str(house.home.root)}
    command = subprocess.Popen(
        [sys.executable, "-c", STOPPING, "model", "export", "big", str(out), "--plain"],
        env=environment,
        stderr=subprocess.PIPE,
    )
    part = tmp_path / "out.part"
    assert os.WIFSTOPPED(os.waitpid(command.pid, os.WUNTRACED)[1])
    assert (part / "model.safetensors").exists()
    command.send_signal(how)
    command.send_signal(signal.SIGCONT)
    told = command.communicate(timeout=120)[1].decode()
    assert not out.exists()
    if how == signal.SIGKILL:
        assert not (part / "model.sig").exists()
        shell = Shell(house.home.root)
        assert "cut off" in shell("model", "export", "open", str(out), "--plain", code=4).stderr
    else:
        assert command.returncode == 130 and "stopped" in told
        assert not part.exists()
    left = [job for job in house.client.jobs() if job.verb == "export"][-1]
    assert ended(house, left).state in (JobState.FAILED, JobState.CANCELLED)


def test_the_worker_has_no_disk_to_write_to(house: Appliance) -> None:
    with stalled(house) as (job, reading, _):
        assert not house.home.output_folder(job.job_id).exists()
        reading.close()
        ended(house, job)
