"""Removing a source after its import: what is refused, what is overwritten, and what is promised where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.errors import CloisterError, InvalidInput
from cloister.removal import Ground, Removable, ground_of

SECRET = b"Zanzibar-4711 " * 5000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(SECRET)
    return path


def test_a_file_is_overwritten_where_it_lies_and_removed(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[bytes, int]] = []
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: written.append((data, at)) or pwrite(fd, data, at))
    monkeypatch.setattr("cloister.removal.ground_of", lambda descriptor: Ground("ext4", True, ()))
    with source.open("rb") as reading, Removable(source) as removable:
        removable.check_same(reading.fileno())
        assert removable.remove() >= len(SECRET)
        assert os.fstat(reading.fileno()).st_size == 0
        assert os.fstat(reading.fileno()).st_nlink == 0
    assert sum(len(data) for data, _ in written) >= len(SECRET)
    assert [at for _, at in written] == [0]
    assert b"Zanzibar" not in written[0][0]
    assert list(source.parent.iterdir()) == []


def test_where_writes_go_to_new_blocks_nothing_is_overwritten(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.removal.ground_of", lambda descriptor: Ground("btrfs", False, ()))
    with Removable(source) as removable:
        assert removable.remove() == 0
    assert not source.exists()


def refused(path: Path) -> str:
    with pytest.raises(CloisterError) as error, Removable(path):
        pass
    return str(error.value)


def test_links_pipes_folders_and_files_with_other_names_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    assert "symbolic link" in refused(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in refused(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert "regular file" in refused(tmp_path / "pipe")
    os.close(reading)
    assert "regular file" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "none")
    os.link(source, tmp_path / "other")
    assert "2 names" in refused(source)
    assert source.read_bytes() == SECRET


def test_a_file_that_took_the_name_meanwhile_is_left_alone(source: Path) -> None:
    with Removable(source) as removable:
        source.rename(source.with_suffix(".old"))
        source.write_bytes(b"another")
        with pytest.raises(InvalidInput, match="another file"):
            removable.remove()
    assert source.read_bytes() == b"another"


@pytest.mark.parametrize("change", ["grown", "replaced", "moved", "linked"])
def test_what_changed_during_the_import_stays(source: Path, change: str) -> None:
    with source.open("rb") as reading, Removable(source) as removable:
        if change == "grown":
            with source.open("ab") as file:
                file.write(b"more")
        elif change == "linked":
            os.link(source, source.with_suffix(".other"))
        else:
            source.rename(source.with_suffix(".old"))
            if change == "replaced":
                source.write_bytes(b"another")
        with pytest.raises(InvalidInput):
            removable.check_same(reading.fileno())


def told(tmp_path: Path, kind: str, *, options: str = "rw", **block: str) -> Ground:
    """What is said of a file on a machine whose /proc and /sys say this."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        proc, sys = tmp_path / "proc" / "self", tmp_path / "sys" / "dev" / "block" / "8:1"
        for folder in (proc / "fdinfo", sys / "dm", sys / "queue"):
            folder.mkdir(parents=True, exist_ok=True)
        (proc / "fdinfo" / str(descriptor)).write_text("pos:\t0\nflags:\t02\nmnt_id:\t36\n")
        (proc / "mountinfo").write_text(
            "35 1 0:1 / / rw - proc proc rw\n"
            f"36 35 8:1 / /data rw,noatime shared:1 - {kind} /dev/sda1 {options}\n"
        )
        (sys / "queue" / "rotational").write_text(block.get("rotational", "1"))
        (sys / "uevent").write_text(f"MAJOR=8\nDEVNAME={block.get('name', 'sda1')}\n")
        (sys / "dm" / "uuid").write_text(block.get("uuid", ""))
        return ground_of(descriptor, proc=tmp_path / "proc", sys=tmp_path / "sys")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("kind", "options", "block", "overwrite", "words"),
    [
        ("ext4", "rw", {}, True, ("writes in place", "magnetic disk")),
        ("ext4", "rw,data=journal", {}, True, ("data=journal",)),
        ("ext4", "rw", {"rotational": "0"}, True, ("no moving parts", "encryption")),
        ("xfs", "rw", {"uuid": "CRYPT-LUKS2-1"}, True, ("reflink", "encrypted")),
        ("ext4", "rw", {"name": "vda1"}, True, ("virtual",)),
        ("btrfs", "rw", {}, False, ("never over old ones", "snapshots")),
        ("zfs", "rw", {}, False, ("not overwritten",)),
        ("overlay", "rw", {}, True, ("lower layer",)),
        ("tmpfs", "rw", {}, False, ("memory",)),
        ("nfs4", "rw", {}, True, ("other side",)),
        ("fuse.sshfs", "rw", {}, True, ("other side",)),
        ("reiserfs", "rw", {}, True, ("nothing is promised",)),
    ],
)
def test_what_is_promised_is_what_the_file_system_bears_out(
    tmp_path: Path, kind: str, options: str, block: dict[str, str], overwrite: bool, words: tuple[str, ...]
) -> None:
    ground = told(tmp_path, kind, options=options, **block)
    said = " ".join(ground.words)
    assert (ground.filesystem, ground.overwrite) == (kind, overwrite)
    assert all(word in said for word in words)
    assert "backups" in said
    if "data=journal" in options:
        assert "in place" not in said


def test_the_file_system_here_has_a_name(source: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY)
    try:
        assert ground_of(descriptor).filesystem != "unknown"
    finally:
        os.close(descriptor)
