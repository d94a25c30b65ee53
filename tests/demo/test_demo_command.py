"""The demo cleans up after itself, also when interrupted, and its search for leaks finds what is there."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.demo import story
from cloister.demo.search import BLOCK, find_leaks, needles


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path leaves room for the sockets below it."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(short_folder: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "TMPDIR": str(short_folder)}
    command = [str(Path(sys.executable).parent / "cloister"), "demo"]
    demo = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "fine-tuning" in line:
            break
    time.sleep(2)
    demo.send_signal(number)
    rest = demo.stdout.read()
    assert demo.wait(60) == 130
    assert "interrupted" in rest
    assert list(short_folder.iterdir()) == []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(short_folder).encode() not in process.read_bytes()
        except OSError:
            continue


def test_it_tells_of_no_more_rows_than_are_held_out() -> None:
    assert story.weighed({"holdout_rows": 17}) == 17
    assert story.weighed({"holdout_rows": 300}) == story.WORTH.max_rows


@given(prefix=st.binary(max_size=40), where=st.integers(0, BLOCK + 100))
@settings(max_examples=20, deadline=None)
def test_the_search_finds_a_string_anywhere(
    tmp_path_factory: pytest.TempPathFactory, prefix: bytes, where: int
) -> None:
    folder = tmp_path_factory.mktemp("search")
    text = "canary-0123456789abcdef"
    path = folder / "file"
    path.write_bytes(b"\0" * where + prefix + text.encode() + prefix)
    assert [(leak.path, leak.offset) for leak in find_leaks(text, [folder])] == [(path, where + len(prefix))]
    path.write_bytes(base64.b64encode(prefix + text.encode() + prefix))
    assert len(find_leaks(text, [folder])) == 1
    path.write_bytes(b"\0" * where + prefix + text.encode()[:-1])
    assert find_leaks(text, [folder]) == []


def test_the_search_skips_holes_and_finds_what_lies_around_them(tmp_path: Path) -> None:
    whole = 1 << 40  # nobody reads that byte by byte
    for name, place in (("first", 0), ("within", (1 << 39) + 5), ("last", whole - 40)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(whole)
            file.seek(place)
            file.write(b"canary-0123456789")
    text = "canary-0123456789".encode("utf-16-le")
    with (tmp_path / "at-a-hole").open("wb") as file:  # its last zero is the hole's first
        file.write(b"x" * (BLOCK - len(text) + 1) + text[:-1])
        file.truncate(whole)
    (tmp_path / "empty").open("wb").truncate(whole)
    found = {leak.path.name: leak.offset for leak in find_leaks("canary-0123456789", [tmp_path])}
    assert found == {
        "first": 0,
        "within": (1 << 39) + 5,
        "last": whole - 40,
        "at-a-hole": BLOCK - len(text) + 1,
    }


def test_the_search_looks_for_several_forms() -> None:
    assert len(set(needles("canary-0123456789abcdef"))) == 5


def test_a_home_that_is_kept_is_told_with_what_opens_it(
    short_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after a failure, where nothing says what to try next."""
    story._clean_up(short_folder, keep=True, stage=story.Stages(quiet=False))
    said = capsys.readouterr().out
    assert str(short_folder / "home") in said and story.KEPT_PASSPHRASE in said
