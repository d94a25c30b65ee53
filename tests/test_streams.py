"""What is written to standard output arrives whole or is told of, however Python was asked to buffer it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.errors import InvalidInput, OutOfSpace

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
BUFFERED["PYTHONDONTWRITEBYTECODE"] = "1"  # for where there is no room, Python leaves it cut short, and fails on it
UNBUFFERED = {**BUFFERED, "PYTHONUNBUFFERED": "1"}
FULL = (
    "import resource, runpy, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    "sys.argv = ['cloister', *sys.argv[1:]]\n"
    "runpy.run_module('cloister.cli.main', run_name='__main__')\n"
)
"""The command line with room for 100 bytes."""
TWICE = (
    "import io, sys\n"
    "from cloister.streams import write_whole\n"
    "write_whole()\n"
    "first = sys.stdout, sys.stderr\n"
    "write_whole()\n"
    "assert first == (sys.stdout, sys.stderr) == (sys.__stdout__, sys.__stderr__)\n"
    "print('a', flush=True), print('ü\\udcff', file=sys.stderr)\n"
)


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("arguments", [["--help"], ["policy", "--help"]])
def test_output_that_finds_no_room_is_told(tmp_path: Path, arguments: list[str], buffered: bool) -> None:
    """In one message and by its exit code, also where all of it was still held when the command was done."""
    environment = BUFFERED if buffered else UNBUFFERED
    with (tmp_path / "out").open("wb") as out:
        ended = subprocess.run(
            [sys.executable, "-c", FULL, *arguments], env=environment, stdout=out, stderr=subprocess.PIPE
        )
    assert (tmp_path / "out").stat().st_size == 100
    told, remedy = ended.stderr.decode().splitlines()
    assert told == "error: there is no room for what this writes"
    assert remedy.startswith("  try: Make room.")
    assert ended.returncode == OutOfSpace.exit_code


@pytest.mark.parametrize("buffered", [False, True])
def test_a_reader_that_leaves_ends_it_in_silence(buffered: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = BUFFERED if buffered else UNBUFFERED
    command = [sys.executable, "-m", "cloister.cli.main", "--help"]
    ended = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode in (1, 141), ended.stderr) == (True, b"")


def test_an_error_that_can_be_told_nowhere_is_in_the_exit_code(tmp_path: Path) -> None:
    command = f'exec "{sys.executable}" -m cloister.cli.main policy check {tmp_path}/none >/dev/full 2>&1'
    assert subprocess.run(["sh", "-c", command], env=BUFFERED).returncode == InvalidInput.exit_code


def test_asked_twice_it_does_nothing_more() -> None:
    ended = subprocess.run([sys.executable, "-c", TWICE], env=UNBUFFERED, capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"a\n", "ü\\udcff\n".encode())


def test_a_stream_that_is_closed_stays_so() -> None:
    said = "import sys; from cloister.streams import write_whole; write_whole(); sys.exit(sys.stdout is not None)"
    command = f'exec "{sys.executable}" -c "{said}" >&-'
    assert subprocess.run(["sh", "-c", command], env=UNBUFFERED).returncode == 0
