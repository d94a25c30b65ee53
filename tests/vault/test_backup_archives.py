"""Packs, key archives and indexes: there and back, the same each time, and nothing outside their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import CloisterError, InvalidInput, NotFound, OutOfSpace, Tampered, Unauthenticated
from cloister.vault import ObjectStore, ObjectWriter, age, backup

OBJECT = "ds-7k2m9c4xq0ab"


def stored(tmp_path: Path, sizes: dict[str, int]) -> tuple[ObjectStore, str]:
    store = ObjectStore(tmp_path / "objects")
    writer = ObjectWriter(tmp_path / "w", object_id=OBJECT, kind="dataset", key=bytes(32))
    for path, size in sizes.items():
        with writer.create(path) as file:
            file.write(bytes(size))
    return store, store.adopt(tmp_path / "w", writer.finish(created_at="2026-01-01T00:00:00Z")).sha256


LONG = "/".join(["f" * 60] * 5)


def test_an_object_comes_back_as_it_was(tmp_path: Path) -> None:
    store, digest = stored(tmp_path, {"rows.bin": 3_000_000, "a/b/c": 0, LONG: 10})
    folder = store.folder("dataset", OBJECT, 1)
    pack = backup.pack_object(tmp_path / "t", folder, digest)
    again = backup.pack_object(tmp_path / "u", folder, digest)
    assert pack == again, "the same object gives the same pack"
    assert backup.packs_in(tmp_path / "t") == {digest: pack.name}
    assert backup.read_back(tmp_path / "t" / "packs", pack.name, pack.sha256) == pack.size
    ref = backup.PackRef("dataset", OBJECT, 1, digest, pack.name)
    manifest = backup.unpack_object(tmp_path / "t", ref, tmp_path / "out")
    other = ObjectStore(tmp_path / "others")
    other.adopt(tmp_path / "out", manifest)
    assert other.check("dataset", OBJECT, 1, manifest_sha256=digest).sha256 == digest


def test_a_damaged_object_is_not_packed(tmp_path: Path) -> None:
    store, digest = stored(tmp_path, {"rows.bin": 100_000})
    path = store.folder("dataset", OBJECT, 1) / "rows.bin"
    data = bytearray(path.read_bytes())
    data[50_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Tampered, match=r"rows\.bin"):
        backup.pack_object(tmp_path / "t", path.parent, digest)
    assert list((tmp_path / "t" / "packs").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "manifest.json", "unknown.bin"])
def test_a_pack_writes_only_what_its_manifest_names(tmp_path: Path, name: str) -> None:
    store, digest = stored(tmp_path, {"rows.bin": 10})
    manifest = (store.folder("dataset", OBJECT, 1) / "manifest.json").read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, data in (("manifest.json", manifest), (name, b"evil")):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    packs = tmp_path / "t" / "packs"
    packs.mkdir(parents=True)
    sha256 = hashlib.sha256(out.getvalue()).hexdigest()
    (packs / f"{digest}.{sha256}.tar").write_bytes(out.getvalue())
    ref = backup.PackRef("dataset", OBJECT, 1, digest, f"{digest}.{sha256}.tar")
    with pytest.raises(CloisterError):
        backup.unpack_object(tmp_path / "t", ref, tmp_path / "out" / "deep")
    assert list(tmp_path.rglob("evil")) == []


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("state.db")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    (tmp_path / "x.tar").write_bytes(out.getvalue())
    sha256 = hashlib.sha256(out.getvalue()).hexdigest()
    with pytest.raises(Tampered, match="plain files"):
        backup.extract(tmp_path, "x.tar", sha256, lambda name: tmp_path / "out" / name)
    with pytest.raises(Tampered, match="plain files"):
        backup.untar(out.getvalue(), "x")


def index() -> backup.Index:
    return backup.Index(
        backup_id="bk-000000000001",
        made_at="2026-11-21T00:00:00+00:00",
        keys_until="2027-02-21T00:00:00+00:00",
        appliance="a",
        objects_sha256="0" * 64,
        keys_sha256="1" * 64,
        packs=3,
    )


@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_bit_of_an_index_counts(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("i")
    data = bytearray(backup.index_bytes(index()))
    path = folder / "bk-000000000001.json"
    path.write_bytes(data)
    read = backup.read_index(folder, path.name)
    assert (read.packs, read.keys_sha256) == (3, "1" * 64)
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(Tampered, match="bk-000000000001"):
        backup.read_index(folder, path.name)


@given(data=st.binary(max_size=200))
def test_what_is_no_index_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("i")
    (folder / "bk-000000000001.json").write_bytes(data)
    with pytest.raises(Tampered):
        backup.read_index(folder, "bk-000000000001.json")


def test_keys_open_for_each_recipient_and_for_nobody_else() -> None:
    first, second, other = (pyrage.x25519.Identity.generate() for _ in range(3))
    recipients = age.parse_recipients([str(first.to_public()), str(second.to_public())])
    sealed = age.encrypt(b"keys", recipients=recipients, passphrase=None)
    for identity in (first, second):
        found = age.parse_identities(f"# made today\n# public key: age1x\n{identity}\n")
        assert age.decrypt(sealed, identities=found, passphrase=None, where="k") == b"keys"
    with pytest.raises(Unauthenticated):
        age.decrypt(sealed, identities=[other], passphrase=None, where="k")
    with pytest.raises(InvalidInput):
        age.encrypt(b"keys", recipients=[], passphrase=None)
    with pytest.raises(InvalidInput):
        age.encrypt(b"keys", recipients=recipients, passphrase="both")


@pytest.mark.parametrize(
    "text", ["", "# nothing", "AGE-SECRET-KEY-1QQQ", "age1xyz", "-----BEGIN PRIVATE KEY-----"]
)
def test_what_is_no_identity_is_not_quoted(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        age.parse_identities(text)
    assert len(text) < 3 or text not in str(caught.value)


def test_a_full_disk_leaves_no_half_archive(tmp_path: Path) -> None:
    def fill(out: object) -> None:
        out.write(b"begun")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with pytest.raises(OutOfSpace, match=r"bk\.tar"):
        backup.write_archive(tmp_path, "bk.tar", fill)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFound):
        backup.read_back(tmp_path, "bk.tar", "0" * 64)
