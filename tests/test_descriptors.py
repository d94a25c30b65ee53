"""Descriptors have one owner, who closes them once: a second time their number may be another thread's file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.descriptors import close_all
from cloister.ledger.journal import JournalFile
from cloister.ledger.sinks import JsonLines
from cloister.removal import Removable
from cloister.vault.files import PartFile
from cloister.vault.reader import PlainReader


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_all_are_closed_though_one_belongs_to_somebody_else() -> None:
    ours = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    os.close(ours[1])
    with pytest.raises(OSError) as caught:
        close_all(ours)
    assert caught.value.errno == errno.EBADF
    assert not any(map(is_open, ours))


def untold(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on a close does its work, and then tells of an error, as of a file behind a network; what it closed."""
    closed: list[int] = []
    really = os.close

    def close(descriptor: int) -> None:
        closed.append(descriptor)
        really(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", close)
    return closed


def test_one_that_tells_of_an_error_does_not_keep_the_others_open(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    with monkeypatch.context() as patched:
        untold(patched)
        close_all(ours)
    assert not any(map(is_open, ours))


def part(folder: Path) -> Callable[[], None]:
    return PartFile(folder / "x").abort


def reader(folder: Path) -> Callable[[], None]:
    (folder / "x").touch()
    return PlainReader(folder / "x").close


def journal(folder: Path) -> Callable[[], None]:
    descriptor = os.open(folder / "x", os.O_RDWR | os.O_CREAT)
    return JournalFile(folder / "x", descriptor, 0, "of.a/test").close


def lines(folder: Path) -> Callable[[], None]:
    sink = JsonLines(folder / "x", rotate_bytes=1, keep=1)
    sink.open()
    return sink.close


def removable(folder: Path) -> Callable[[], None]:
    (folder / "x").touch()
    return Removable(folder / "x").close


@pytest.mark.parametrize("owner", [part, reader, journal, lines, removable])
def test_an_owner_lets_go_once_also_where_the_system_says_that_it_failed(
    owner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = owner(tmp_path)
    with monkeypatch.context() as patched:
        closed = untold(patched)
        for _ in range(2):
            try:
                let_go()
            except OSError as error:
                assert error.errno == errno.EIO
    assert closed and len(closed) == len(set(closed))
