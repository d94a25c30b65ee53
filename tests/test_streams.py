"""What is written to standard output arrives whole or is told of, however Python was asked to buffer it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.errors import InvalidInput, OutOfSpace

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
BUFFERED["PYTHONDONTWRITEBYTECODE"] = (
    "1"  # for where there is no room, Python leaves it cut short, and fails on it
)
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


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        ("", "<&-", 2),
        ("run presets", ">&-", 0),
        ("run presets --json", "2>&-", 0),
        ("run presets", "<&- >&- 2>&-", 0),
    ],
)
def test_a_command_does_the_same_where_a_stream_is_closed(arguments: str, closed: str, code: int) -> None:
    command = f'exec "{sys.executable}" -m cloister.cli.main {arguments} {closed}'
    ended = subprocess.run(["sh", "-c", command], env=BUFFERED, capture_output=True)
    assert (ended.returncode, ended.stderr) == (code, b"")
    assert bool(ended.stdout) == (">&-" not in closed.split())


def test_no_file_gets_the_number_of_a_stream_that_is_closed() -> None:
    code = (
        "import os; from cloister.streams import write_whole; write_whole(); "
        "number = os.open('/', os.O_RDONLY); os.write(1, b'nowhere'); os.write(2, b'nowhere'); "
        "raise SystemExit(os.read(0, 1) != b'' or number < 3)"
    )
    command = f'exec "{sys.executable}" -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], env=UNBUFFERED).returncode == 0


def test_a_log_that_leads_nowhere_stops_nothing() -> None:
    code = (
        "import structlog; from cloister.logs import configure_logs; configure_logs(); "
        "structlog.get_logger().info('said'); print('done')"
    )
    ended = subprocess.run(["sh", "-c", f'exec "{sys.executable}" -c "{code}" 2>&-'], capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"done\n")


@pytest.mark.parametrize("environment", [BUFFERED, UNBUFFERED])
@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "iso8859-15"])
def test_documents_are_utf_8_and_a_terminal_is_spared_what_it_lacks(
    encoding: str, environment: dict[str, str]
) -> None:
    code = r"from cloister.streams import write_whole; write_whole(); print('a \u2026 \udcff')"
    command, environment = [sys.executable, "-c", code], {**environment, "PYTHONIOENCODING": encoding}
    ended = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert ended.stdout == "a \u2026 \\udcff\n".encode()
    master, slave = pty.openpty()
    subprocess.run(command, env=environment, stdout=slave, check=True)
    assert os.read(master, 100) == rb"a \u2026 \udcff" + b"\r\n"
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize("environment", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_a_line_is_written_once_it_is_whole(environment: dict[str, str]) -> None:
    """Whoever reads from a pipe has it while the program goes on."""
    script = "from cloister.streams import write_whole; write_whole(); print('said'); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None and program.stdout is not None
        try:
            assert select.select([program.stdout], [], [], 60)[0]
            assert program.stdout.readline() == b"said\n"
        finally:
            program.stdin.close()
