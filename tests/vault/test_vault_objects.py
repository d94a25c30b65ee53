"""Objects: written whole or not at all, read back against their manifest, adopted by the store."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import CloisterError, Conflict, InvalidInput, NotFound, Tampered
from cloister.vault import (
    CHUNK,
    FileSeal,
    InputRef,
    Manifest,
    ObjectReader,
    ObjectStore,
    ObjectWriter,
    parse_manifest,
    read_manifest,
    sign_manifest,
    verify_manifest,
)

KEY = bytes(range(32))
OBJECT = "ds-000000000000"
TIME = "2026-11-21T11:00:00Z"
FILES = {"rows.bin": bytes(2 * CHUNK + 9), "best/adapter.safetensors": b"weights", "empty": b""}


def make(
    folder: Path, *, key: bytes | None = KEY, files: dict[str, bytes] = FILES, object_id: str = OBJECT
) -> Manifest:
    writer = ObjectWriter(folder, object_id=object_id, kind="dataset", key=key)
    for name, content in files.items():
        with writer.create(name) as file:
            file.write(content)
    ref = InputRef("bm-000000000000", 1, "ab" * 32)
    return writer.finish(
        created_at=TIME, inputs=[ref], counts={"rows": 3}, details={"lengths": [1, 2.5, None, {"ü": True}]}
    )


SOME_MANIFEST = Manifest(
    object_id=OBJECT,
    kind="dataset",
    version=1,
    created_at=TIME,
    sealed=True,
    files=(FileSeal("rows.bin", 7, 79, "cd" * 32, "ef" * 56),),
    counts={"rows": 3},
    details={"lengths": [1, 2.5]},
).canonical()


@pytest.fixture
def signer() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "in the open"])
def test_an_object_comes_back(tmp_path: Path, key: bytes | None) -> None:
    manifest = make(tmp_path / "o", key=key)
    reader = ObjectReader(tmp_path / "o", key=key, manifest_sha256=manifest.sha256, object_id=OBJECT)
    assert reader.manifest == manifest
    assert sorted(reader.files) == sorted(FILES)
    for name, content in FILES.items():
        assert name in reader
        assert reader.read(name) == content
        assert reader.open(name).size == len(content)
    reader.check(full=True)
    assert ((tmp_path / "o/empty").read_bytes() == b"") is (key is None)
    with pytest.raises(NotFound):
        reader.open("other")
    with pytest.raises(InvalidInput):
        reader.read("rows.bin", limit=100)
    with pytest.raises(InvalidInput):
        ObjectReader(tmp_path / "o", key=None if key else KEY)
    with pytest.raises(Tampered):
        ObjectReader(tmp_path / "o", key=key, object_id="ds-000000000001")
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "o").rglob("*") if p.is_file()} == {0o600}
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "o").rglob("*") if p.is_dir()} == {0o700}


@pytest.mark.parametrize(
    "path",
    ["", "/etc/x", "../x", "a/../b", "a//b", "./a", "a/", ".hidden", "a\0b", "a\nb", "a\\b", "x.part",
     "manifest.json", "a" * 200, "é"],
)  # fmt: skip
def test_paths_outside_the_rules_are_refused(tmp_path: Path, path: str) -> None:
    writer = ObjectWriter(tmp_path / "o", object_id=OBJECT, kind="dataset", key=KEY)
    for use in (writer.create, writer.open, writer.remove):
        with pytest.raises(InvalidInput):
            use(path)
    for bad in ({"object_id": "../x"}, {"kind": "a/b"}, {"object_id": ""}):
        with pytest.raises(InvalidInput):
            ObjectWriter(tmp_path / "o", **{"object_id": OBJECT, "kind": "dataset", "key": KEY, **bad})


def test_a_writer_keeps_its_own_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    (folder / "checkpoints/step-1").mkdir(parents=True)
    (folder / "checkpoints/step-1/old").write_bytes(b"of an attempt that was cut off")
    (folder / "torn.part").write_bytes(b"torn")
    writer = ObjectWriter(folder, object_id=OBJECT, kind="dataset", key=KEY)
    for name in ("kept", "dropped", "checkpoints/step-2/state"):
        with writer.create(name) as file:
            file.write(name.encode())
    assert [record.path for record in writer.records] == ["checkpoints/step-2/state", "dropped", "kept"]
    with writer.open("checkpoints/step-2/state") as reader:
        assert reader.read(0, 100) == b"checkpoints/step-2/state"
    writer.remove("checkpoints/step-2/state")
    writer.remove("dropped")
    assert not (folder / "checkpoints/step-2").exists()
    with pytest.raises(Conflict):
        writer.create("kept")
    unfinished = writer.create("unfinished")
    with pytest.raises(Conflict):
        writer.create("unfinished")
    with pytest.raises(Conflict):
        writer.finish(created_at=TIME)
    unfinished.abort()
    for name, wrong in (("a", "yesterday"), ("b", "")):
        with pytest.raises(InvalidInput, match=name and "manifest"):
            writer.finish(created_at=wrong)
    manifest = writer.finish(created_at=TIME)
    assert [record.path for record in manifest.files] == ["kept"]
    assert sorted(p.name for p in folder.iterdir()) == ["kept", "manifest.json"]
    with pytest.raises(Conflict):
        writer.create("late")


@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_one_byte_changed_in_a_manifest_is_tampered(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "manifest"
    signer = Ed25519PrivateKey.from_private_bytes(bytes(32))
    manifest = sign_manifest(parse_manifest(SOME_MANIFEST, "m"), signer)
    folder.mkdir(exist_ok=True)
    digest = manifest.sha256
    path = folder / "manifest.json"
    data = bytearray(manifest.canonical())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)
    for expected in ({"manifest_sha256": digest}, {"signer": signer.public_key()}):
        with pytest.raises(Tampered) as caught:
            ObjectReader(folder, key=KEY, **expected)
        assert caught.value.where == str(path)


def test_signatures(signer: Ed25519PrivateKey, tmp_path: Path) -> None:
    manifest = sign_manifest(make(tmp_path / "o"), signer)
    verify_manifest(manifest, signer.public_key(), where="o")
    other = Ed25519PrivateKey.generate().public_key()
    for key, bad in (
        (other, manifest),
        (signer.public_key(), msgspec.structs.replace(manifest, signature=None)),
        (signer.public_key(), msgspec.structs.replace(manifest, signature="=")),
        (signer.public_key(), msgspec.structs.replace(manifest, created_by="mallory")),
    ):
        with pytest.raises(Tampered):
            verify_manifest(bad, key, where="o")


def test_only_canonical_manifests_are_parsed(tmp_path: Path) -> None:
    data = make(tmp_path / "o").canonical()
    assert parse_manifest(data, "m").canonical() == data
    hostile = [
        b"",
        b"{}",
        b"null",
        data + b"\n",
        data.replace(b'"format":1', b'"format":2'),
        data.replace(b'"format":1', b'"format":1,"extra":0'),
        data.replace(b'"version":1}', b'"version":1,"version":1}'),
        data.replace(b'"rows.bin"', b'"../rows.bin"'),
        data.replace(b'"rows.bin"', b'"best/adapter.safetensors"'),
        data.replace(b'"sealed_size":', b'"sealed_size":1'),
        data.replace(b'"sealed":true', b'"sealed":false'),
        data.replace(b'"size":7', b'"size":-7'),
        data.replace(b'"lengths":[', b'"lengths":[' + b"[" * 100_000),
        data.replace(b"2.5", b"1e999"),
        data.replace(b'"rows":3', b'"rows":' + b"9" * 30),
        data[:-1] + b"\xff",
    ]
    for bytes_ in hostile:
        assert bytes_ != data
        with pytest.raises(Tampered, match="manifest"):
            parse_manifest(bytes_, "m")


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_manifest_parser(data: bytes) -> None:
    with pytest.raises(Tampered):
        parse_manifest(data, "m")


def test_a_huge_manifest_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Tampered, match="too large"):
        read_manifest(tmp_path)


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    away = path.parent.parent / f"{path.name}-away"
    path.rename(away)
    path.symlink_to(away)


def link_folder(path: Path) -> None:
    away = path.parent.parent.parent / "away"
    path.parent.rename(away)
    path.parent.symlink_to(away)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a byte changed": ("rows.bin", flip),
    "a header changed": ("rows.bin", partial(flip, at=0)),
    "cut": ("rows.bin", lambda path: os.truncate(path, 100)),
    "longer": ("rows.bin", lambda path: path.write_bytes(path.read_bytes() + b"x")),
    "missing": ("rows.bin", lambda path: path.unlink()),
    "another file's bytes": ("empty", lambda path: path.write_bytes((path.parent / "rows.bin").read_bytes())),
    "a symbolic link": ("rows.bin", link),
    "a linked folder": ("best/adapter.safetensors", link_folder),
    "a hard link": ("rows.bin", lambda path: os.link(path, path.parent.parent / "other")),
    "an extra file": ("extra", lambda path: path.write_bytes(b"")),
    "an extra pipe": ("pipe", os.mkfifo),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_store_adopts_only_what_the_manifest_says(tmp_path: Path, damage: str) -> None:
    work = tmp_path / "work/out"
    manifest = make(work)
    name, harm = DAMAGE[damage]
    harm(work / name)
    store = ObjectStore(tmp_path / "objects")
    with pytest.raises(Tampered) as caught:
        store.adopt(work, manifest)
    assert str(caught.value.where).startswith(str(work))
    assert not list(store.list())
    assert work.is_dir()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_a_stored_object_is_found_and_named(tmp_path: Path, damage: str) -> None:
    store = ObjectStore(tmp_path / "objects")
    manifest = store.adopt((make(tmp_path / "work"), tmp_path / "work")[1], read_manifest(tmp_path / "work"))
    folder = store.folder("dataset", OBJECT, 1)
    name, harm = DAMAGE[damage]
    harm(folder / name)
    with pytest.raises(Tampered) as caught:
        store.check("dataset", OBJECT, 1, manifest_sha256=manifest.sha256)
    assert str(caught.value.where).startswith(str(folder))
    if name in FILES and damage != "a hard link":
        reader = ObjectReader(folder, key=KEY, manifest_sha256=manifest.sha256)
        with pytest.raises(Tampered):
            reader.check(full=True)


def test_the_life_of_an_object_in_the_store(tmp_path: Path, signer: Ed25519PrivateKey) -> None:
    store = ObjectStore(tmp_path / "objects")
    work = tmp_path / "work/out"
    mine = msgspec.structs.replace(make(work), created_by="alice", ledger_index=7)
    (work / "left/empty").mkdir(parents=True)
    os.chmod(work / "rows.bin", 0o644)
    manifest = store.adopt(work, sign_manifest(mine, signer))
    assert not work.exists()
    folder = store.folder("dataset", OBJECT, 1)
    assert sorted(os.listdir(folder)) == ["best", "empty", "manifest.json", "rows.bin"]
    assert (folder / "rows.bin").stat().st_mode & 0o777 == 0o600
    assert store.adopt(work, manifest) == manifest  # asked again after a crash
    stored = store.check(
        "dataset", OBJECT, 1, manifest_sha256=manifest.sha256, signer=signer.public_key(), full=True
    )
    assert (stored.created_by, stored.ledger_index) == ("alice", 7)
    make(work)
    with pytest.raises(Conflict):
        store.adopt(work, manifest)
    with pytest.raises(NotFound):
        store.adopt(tmp_path / "none", make(tmp_path / "x", object_id="ds-000000000001"))
    store.adopt(tmp_path / "x", read_manifest(tmp_path / "x"))
    assert [(v.object_id, v.version) for v in store.list()] == [(OBJECT, 1), ("ds-000000000001", 1)]
    store.remove("dataset", OBJECT, 1)
    assert [v.object_id for v in ObjectStore(tmp_path / "objects").list()] == ["ds-000000000001"]
    assert not list((tmp_path / "objects").rglob("rows.bin*"))[1:]
    with pytest.raises(NotFound):
        store.remove("dataset", OBJECT, 1)
    with pytest.raises(NotFound):
        store.check("dataset", OBJECT, 1)
    with pytest.raises(InvalidInput):
        store.folder("dataset", "../..", 1)


def test_an_adoption_that_was_killed_as_it_wrote_the_manifest_goes_on(
    tmp_path: Path, signer: Ed25519PrivateKey
) -> None:
    mine = make(tmp_path / "work")
    manifest = sign_manifest(mine, signer)
    store = ObjectStore(tmp_path / "objects")
    child = os.fork()
    if child == 0:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        try:
            store.adopt(tmp_path / "work", manifest)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "work").glob("*.part")] == ["manifest.json.part"]
    store.adopt(tmp_path / "work", manifest)
    store.check(manifest.kind, manifest.object_id, 1)


def test_a_manifest_in_another_objects_place_is_tampered(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    make(tmp_path / "w")
    store.adopt(tmp_path / "w", read_manifest(tmp_path / "w"))
    (tmp_path / "objects/dataset" / OBJECT).rename(tmp_path / "objects/dataset/ds-000000000009")
    with pytest.raises(Tampered, match="another object"):
        store.check("dataset", "ds-000000000009", 1)


WRITE_FOREVER = """
import sys
from pathlib import Path
from cloister.vault import ObjectStore, ObjectWriter
root = Path(sys.argv[1])
store = ObjectStore(root / "objects")
print("up", flush=True)
for number in range(100000):
    object_id = f"ds-{number:012d}"
    writer = ObjectWriter(root / "work" / object_id, object_id=object_id, kind="dataset", key=bytes(32))
    for name in ("a", "b/c"):
        with writer.create(name) as file:
            for _ in range(5):
                file.write(bytes(300_000))
    store.adopt(writer.folder, writer.finish(created_at="2026-11-21T11:00:00Z"))
    print(object_id, flush=True)
"""


def kill_while_writing(root: Path, after: float) -> int:
    """Kills a writer without warning; returns how many objects it had said were stored, all whole."""
    root.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, root], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        time.sleep(after)
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().split()
    stored = list(ObjectStore(root / "objects").list())
    assert {version.object_id for version in stored} >= set(said)
    assert len(stored) <= len(said) + 1
    for version in stored:
        ObjectReader(version.folder, key=bytes(32), object_id=version.object_id).check(full=True)
    for path in (root / "work").rglob("*"):
        if path.name == "manifest.json":
            ObjectReader(path.parent, key=bytes(32)).check(full=True)
        elif path.is_file() and path.suffix != ".part":
            writer = ObjectWriter(
                root / "work" / path.relative_to(root / "work").parts[0],
                object_id=path.relative_to(root / "work").parts[0],
                kind="dataset",
                key=bytes(32),
            )
            with writer.open(path.relative_to(writer.folder).as_posix()) as reader:
                assert reader.size == 1_500_000
                assert not any(reader.read(0, reader.size))
    return len(said)


def test_killed_writers_leave_nothing_half_written(tmp_path: Path) -> None:
    order = random.Random(5)
    for turn in range(4):
        kill_while_writing(tmp_path / str(turn), order.uniform(0, 0.25))


@pytest.mark.soak
@pytest.mark.slow
def test_many_killed_writers_leave_nothing_half_written(tmp_path: Path) -> None:
    order = random.Random(6)
    for turn in range(40):
        kill_while_writing(tmp_path / str(turn), order.uniform(0, 0.4))


def test_an_error_names_the_file_and_never_its_content(tmp_path: Path) -> None:
    make(tmp_path / "o", files={"secret.bin": b"canary" * 5000})
    flip(tmp_path / "o/secret.bin")
    with pytest.raises(CloisterError) as caught:
        ObjectReader(tmp_path / "o", key=KEY).read("secret.bin")
    assert str(tmp_path / "o/secret.bin") in str(caught.value)
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "in the open"])
def test_size_and_header_are_checked_when_a_file_is_opened(tmp_path: Path, key: bytes | None) -> None:
    store = ObjectStore(tmp_path / "objects")
    make(tmp_path / "w", key=key)
    store.adopt(tmp_path / "w", read_manifest(tmp_path / "w"))
    folder = store.folder("dataset", OBJECT, 1)
    with (folder / "rows.bin").open("ab") as file:
        file.write(b"x")
    for look in (
        lambda: ObjectReader(folder, key=key).open("rows.bin"),
        lambda: store.check("dataset", OBJECT, 1, full=False),
    ):
        with pytest.raises(Tampered, match="not of the recorded size"):
            look()
