"""The verb `export` into a folder of the caller's: what was sealed comes out, signed, whole or not at all."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
import pytest
from tests.openssf_verifier import verify

import worker_jobs
from cloister.api import ExportConfig, Grant
from cloister.errors import (
    CloisterError,
    Conflict,
    Interrupted,
    InvalidInput,
    JobFailed,
    NotFound,
    OutOfSpace,
    Tampered,
)
from cloister.models import openssf
from cloister.targets import ExportFolder
from cloister.vault import ObjectWriter
from cloister.worker.verbs import export

SECRET = bytes(range(1, 33))
PUBLIC = openssf.public_pem(openssf.signing_key(SECRET))
RECORD = {"model": {"id": "mm-000000000000"}, "classification": "internal"}
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "chat_template.jinja": b"",
    "model-00001-of-00002.safetensors": os.urandom((6 << 20) + 511),
    "model-00002-of-00002.safetensors": os.urandom(512),
}
SIZE = sum(map(len, FILES.values()))


@dataclass
class Model:
    """A sealed model, and how it is exported."""

    grant: Grant

    def export(
        self, target: ExportFolder, *recipients: str, recorder: worker_jobs.Recorder | None = None
    ) -> dict[str, Any]:
        """Run the verb on the target's pipe, as its sandbox would: with a descriptor of its own."""
        config = ExportConfig(
            name="claims",
            form="encrypted" if recipients else "plain",
            recipients=recipients,
            record=RECORD,
            secret=base64.b64encode(SECRET).decode(),
        )
        document = worker_jobs.job(
            "export",
            config,
            None,
            inputs={"model": self.grant},
            descriptors={"output": os.dup(target.output)},
        )
        target.handed_over()
        return export.run(document, recorder or worker_jobs.Recorder())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    grant = worker_jobs.output(tmp_path_factory.mktemp("sealed"), "model", "mm")
    writer = ObjectWriter(
        Path(grant.path), object_id=grant.object_id, kind="model", key=worker_jobs.raw_key(grant)
    )
    for name, content in FILES.items():
        with writer.create(name) as file:
            file.write(content)
    writer.finish(created_at="2026-11-22T00:00:00+00:00")
    return Model(worker_jobs.as_input(grant))


def folder_at(path: Path, form: Any = "plain", **more: Any) -> ExportFolder:
    return ExportFolder(path, "claims", form, **({"need": SIZE} | more))


def nothing_at(path: Path) -> bool:
    """Neither the folder, nor what one that was cut off leaves."""
    return not path.exists() and not path.with_name(path.name + ".part").exists()


def test_plain_it_is_the_sealed_model_to_the_byte_signed(model: Model, tmp_path: Path) -> None:
    recorder = worker_jobs.Recorder()
    with folder_at(tmp_path / "out") as target:
        told = model.export(target, recorder=recorder)
        assert not (tmp_path / "out").exists(), "nothing appears before the authority said that it is done"
        target.finish()
    out = tmp_path / "out"
    assert {name: (out / name).read_bytes() for name in FILES} == FILES
    extra = {path.name for path in out.iterdir()} - FILES.keys()
    assert extra == {"model.sig", "model-signing.pub.pem", "export.json"}
    assert told["form"] == "plain" and told["files"] == len(FILES) + 3
    assert (out / "model-signing.pub.pem").read_bytes() == PUBLIC
    assert json.loads((out / "export.json").read_text()) == RECORD
    statement = verify(out, PUBLIC)
    assert statement["subject"][0]["name"] == "claims"
    assert {(path.stat().st_mode & 0o777) for path in out.iterdir()} == {0o600}
    assert recorder.progressed[0] == ("export", 0, SIZE) and recorder.progressed[-1][1] == SIZE
    assert nothing_at(tmp_path / "other")


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_encrypted_it_opens_with_age_to_the_same(model: Model, tmp_path: Path) -> None:
    one, two = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    with folder_at(tmp_path / "out", "encrypted") as target:
        model.export(target, str(one.to_public()), str(two.to_public()))
        target.finish()
    (archive,) = (tmp_path / "out").iterdir()
    assert archive.name == "claims.tar.age"
    assert not any(content in archive.read_bytes() for content in FILES.values() if len(content) > 100)
    for identity in (one, two):
        key = tmp_path / "key.txt"
        key.write_text(f"{identity}\n")
        opened = subprocess.run(["age", "-d", "-i", str(key), str(archive)], capture_output=True, check=True)
        into = Path(tempfile.mkdtemp(dir=tmp_path))
        subprocess.run(["tar", "-x", "-C", str(into)], input=opened.stdout, check=True)
        assert {name: (into / "claims" / name).read_bytes() for name in FILES} == FILES
        verify(into / "claims", PUBLIC)


@pytest.mark.parametrize("recipients", [(), (str(pyrage.x25519.Identity.generate().to_public()),)])
@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
def test_what_was_changed_in_the_store_never_gets_a_signature(
    model: Model, tmp_path: Path, name: str, recipients: tuple[str, ...]
) -> None:
    path = Path(model.grant.path) / name
    before = path.read_bytes()
    path.write_bytes(before[:-20] + bytes([before[-20] ^ 1]) + before[-19:])
    try:
        with folder_at(tmp_path / "out", "encrypted" if recipients else "plain") as target:
            with pytest.raises(Tampered):
                model.export(target, *recipients)
            assert target.failed is None, "it is told as the worker tells it"
    finally:
        path.write_bytes(before)
    assert nothing_at(tmp_path / "out")


@pytest.mark.parametrize("recipients", [(), (str(pyrage.x25519.Identity.generate().to_public()),)])
def test_a_job_that_is_stopped_stops(model: Model, tmp_path: Path, recipients: tuple[str, ...]) -> None:
    stopping = worker_jobs.Recorder(lambda recorder: len(recorder.progressed) > 2)
    with (
        folder_at(tmp_path / "out", "encrypted" if recipients else "plain") as target,
        pytest.raises(Interrupted),
    ):
        model.export(target, *recipients, recorder=stopping)
    assert nothing_at(tmp_path / "out")


@pytest.mark.parametrize("recipients", [(), (str(pyrage.x25519.Identity.generate().to_public()),)])
@pytest.mark.timeout(120)
def test_a_job_that_is_stopped_while_nobody_reads_stops(model: Model, recipients: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    end = time.monotonic() + 0.3
    stopping = worker_jobs.Recorder(lambda _: time.monotonic() > end)
    with pytest.raises(Interrupted):
        model.export(Piped(writing), *recipients, recorder=stopping)  # type: ignore[arg-type]
    os.close(reading)


@pytest.mark.parametrize("recipients", [(), (str(pyrage.x25519.Identity.generate().to_public()),)])
def test_without_a_reader_the_job_fails(model: Model, recipients: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    target = Piped(writing)
    with pytest.raises(JobFailed, match="nobody takes"):
        model.export(target, *recipients)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="pipe"):
        model.export(Piped(os.open(os.devnull, os.O_WRONLY)), *recipients)  # type: ignore[arg-type]


@dataclass
class Piped:
    """A descriptor where an export would go."""

    output: int

    def handed_over(self) -> None:
        os.close(self.output)


# --- the folder ---------------------------------------------------------------------------------


def test_what_lies_in_the_way_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(full)
    (tmp_path / "cut.part").mkdir()
    refused: list[tuple[Path, type[CloisterError], str]] = [
        (full, Conflict, "not empty"),
        (tmp_path / "file", Conflict, "a file"),
        (tmp_path / "link", InvalidInput, "symbolic link"),
        (tmp_path / "cut", Conflict, "cut off"),
        (tmp_path / "no" / "parent", NotFound, "no such folder"),
        (Path("/proc"), InvalidInput, "top folder"),
        (Path("/"), InvalidInput, "top folder"),
        (tmp_path / "home" / "x", InvalidInput, "home"),
    ]
    (tmp_path / "home").mkdir()
    for path, kind, said in refused:
        with pytest.raises(kind, match=said):
            folder_at(path, outside=(tmp_path / "home",))
    with pytest.raises(OutOfSpace, match="MiB free"):
        folder_at(tmp_path / "new", need=1 << 60)
    assert not (tmp_path / "new.part").exists()


def test_an_empty_folder_is_taken_and_one_that_filled_meanwhile_is_not(model: Model, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with folder_at(tmp_path / "empty") as target:
        model.export(target)
        target.finish()
    verify(tmp_path / "empty", PUBLIC)
    (tmp_path / "filled").mkdir()
    with folder_at(tmp_path / "filled") as target:
        model.export(target)
        (tmp_path / "filled" / "theirs").touch()
        with pytest.raises(Conflict, match="meanwhile"):
            target.finish()
    assert [path.name for path in (tmp_path / "filled").iterdir()] == ["theirs"]
    assert not (tmp_path / "filled.part").exists()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    disk = Path(tempfile.mkdtemp(prefix="disk"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        disk.rmdir()
        pytest.skip(f"a file system of its own cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
    disk.rmdir()


@pytest.mark.parametrize("recipients", [(), (str(pyrage.x25519.Identity.generate().to_public()),)])
def test_a_full_medium_is_said_and_left_clean(
    model: Model, small_disk: Path, monkeypatch: pytest.MonkeyPatch, recipients: tuple[str, ...]
) -> None:
    monkeypatch.setattr("cloister.targets._SPARE", 0)  # what is free is believed, and then it is not there
    form = "encrypted" if recipients else "plain"
    with folder_at(small_disk / "out", form, need=0) as target:
        with pytest.raises(JobFailed):
            model.export(target, *recipients)
        failed = target.failed
        assert isinstance(failed, OutOfSpace) and failed.where is not None
        assert failed.where.startswith(str(small_disk))
        with pytest.raises(OutOfSpace):
            target.finish()
    assert list(small_disk.iterdir()) == []


def tar_of(*members: tuple[str, bytes], change: Callable[[tarfile.TarInfo], None] = lambda _: None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def as_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"


HOSTILE = {
    "a way up": tar_of(("claims/../x", b"x"), ("claims/model.sig", b"")),
    "an absolute path": tar_of(("/etc/x", b"x"), ("claims/model.sig", b"")),
    "another folder": tar_of(("other/x", b"x"), ("other/model.sig", b"")),
    "a hidden file": tar_of(("claims/.bashrc", b"x"), ("claims/model.sig", b"")),
    "a folder below": tar_of(("claims/a/b", b"x"), ("claims/model.sig", b"")),
    "a file twice": tar_of(("claims/x", b"x"), ("claims/x", b"y"), ("claims/model.sig", b"")),
    "a file behind the signature": tar_of(("claims/model.sig", b""), ("claims/x", b"x")),
    "a link": tar_of(("claims/x", b""), ("claims/model.sig", b""), change=as_link),
    "no signature": tar_of(("claims/x", b"x")),
    "nothing": b"",
    "no archive": b"x" * 4096,
    "half a file": tar_of(("claims/x", b"x" * 9000), ("claims/model.sig", b""))[:5000],
    "an end in a header": tar_of(("claims/x", b"x"), ("claims/model.sig", b""))[:1100],
}


CUT_OFF = {"no signature", "nothing", "no archive", "half a file", "an end in a header"}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_export_becomes_no_folder(tmp_path: Path, what: str) -> None:
    with folder_at(tmp_path / "out") as target:
        writer = threading.Thread(target=_feed, args=(os.dup(target.output), HOSTILE[what]))
        writer.start()
        target.handed_over()
        with pytest.raises(Tampered, match="before its signature" if what in CUT_OFF else "is no export"):
            target.finish()
        writer.join()
    assert list(tmp_path.iterdir()) == []


def _feed(descriptor: int, content: bytes) -> None:
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except BrokenPipeError:
        pass


def test_one_that_is_left_while_nothing_comes_ends_at_once(tmp_path: Path) -> None:
    with folder_at(tmp_path / "out") as target:
        held = os.dup(target.output)  # whoever writes lives on, and says nothing
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BrokenPipeError):
        os.write(held, b"x")
    os.close(held)
