"""What commands read before anything is asked of an appliance: passphrases and files of settings."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cloister.cli.session import read_passphrase
from cloister.errors import InvalidInput
from cloister.recipes import read_run_file


def piped(*pieces: bytes) -> int:
    """A descriptor that gives these pieces one after the other."""
    reading, writing = os.pipe()

    def write() -> None:
        for piece in pieces:
            os.write(writing, piece)
            time.sleep(0.02)
        os.close(writing)

    threading.Thread(target=write).start()
    return reading


def test_a_passphrase_that_comes_in_pieces_is_read_whole() -> None:
    assert read_passphrase(piped(b"correct ", b"horse\n")) == "correct horse"
    assert read_passphrase(piped("\u00e4".encode() * 600, "\u00e4".encode() * 400)) == "\u00e4" * 1000


@pytest.mark.parametrize("raw", [b"", b"\n", b"a" * 1025, b"caf\xe9\n"])
def test_what_is_no_passphrase_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_passphrase(piped(raw))


@pytest.mark.parametrize(
    "text",
    [
        "batch_size: many",
        "lora: 5",
        "lora: [1]",
        "lora: {1: 2}",
        "1: 2",
        "- a",
        "surprise: 1",
        "a: [",
        "x: \x00",
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput):
        read_run_file(path)


def test_a_home_that_cannot_be_made_is_told_in_a_line() -> None:
    program = str(Path(sys.executable).parent / "cloister")
    environment = {**os.environ, "CLOISTER_HOME": "/proc/nowhere"}
    done = subprocess.run([program, "status"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "/proc/nowhere" in done.stderr
