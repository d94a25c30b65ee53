"""What is made in a shared folder is its group's too; everywhere else it is its owner's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cloister import modes


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def made(folder: Path) -> tuple[int, int, int]:
    modes.make_folder(folder / "below")
    os.close(modes.create(folder / "below" / "file", os.O_WRONLY))
    os.close(modes.create(folder / "below" / "both", os.O_WRONLY, writable=True))
    return mode_of(folder / "below"), mode_of(folder / "below" / "file"), mode_of(folder / "below" / "both")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_private_folder_makes_private_things(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for surroundings in (0o700, 0o755, 0o2700):  # the last: inherited from a folder of the house
            folder = tmp_path / oct(surroundings)
            folder.mkdir()
            folder.chmod(surroundings)
            below, file, both = made(folder)
            assert (below & 0o777, file, both) == (0o700, 0o600, 0o600)
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_shared_folder_hands_its_group_on(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o2750)
    before = os.umask(umask)
    try:
        assert made(tmp_path) == (0o2770, 0o640, 0o660)
        assert (tmp_path / "below" / "file").stat().st_gid == tmp_path.stat().st_gid
    finally:
        os.umask(before)


def test_what_came_too_open_is_closed_as_its_surroundings_say(tmp_path: Path) -> None:
    for surroundings, folder_mode, file_mode in ((0o700, 0o700, 0o600), (0o2770, 0o2770, 0o640)):
        folder = tmp_path / oct(surroundings)
        folder.mkdir()
        folder.chmod(surroundings)
        file = folder / "file"
        file.touch()
        file.chmod(0o666)
        modes.close_to_others(file)
        folder.chmod(surroundings | 0o007)
        modes.close_to_others(folder)
        assert (mode_of(folder), mode_of(file)) == (folder_mode, file_mode)


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "name").touch()
    with pytest.raises(FileExistsError):
        modes.make_folder(tmp_path / "name")


def test_what_another_account_put_there_in_place_of_a_file_is_let_go_of(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"12345")
    before = set(os.listdir("/proc/self/fd"))
    for name in ("folder", "pipe", "long"):
        with pytest.raises(OSError):
            modes.read_foreign(tmp_path / name, 4)
    assert set(os.listdir("/proc/self/fd")) <= before  # what others left may be collected meanwhile
    assert modes.read_foreign(tmp_path / "long", 5) == b"12345"
