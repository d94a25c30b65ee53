"""Ctrl-c leaves a command: 130, one calm line, and what it had asked for goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import PASSPHRASE, Appliance, start_appliance

from cloister import embedded

CLOISTER = str(Path(sys.executable).parent / "cloister")
FROM_THE_START = """
import sys
import cloister.cli.main as command

attend = command.attend_ctrl_c

def told():
    attend()
    print("ready", flush=True)

command.attend_ctrl_c = told
sys.argv[0] = "x"
command.main()
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    appliance = start_appliance(tmp_path_factory.mktemp("c") / "home", gateway=False)
    yield appliance
    appliance.client.close()
    embedded.stop(appliance.home)


def begin(appliance: Appliance, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**os.environ, "CLOISTER_HOME": str(appliance.home.root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def until(found: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def leave(process: subprocess.Popen[str]) -> str:
    """Press ctrl-c: the terminal signals the whole group. Returns the last line, after what was said before."""
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    lines = said.splitlines()
    assert lines[-1].startswith("left: ") and sum(line.startswith("left: ") for line in lines) == 1, said
    return lines[-1]


def test_an_import_and_a_draining_lock_go_on(desk: Appliance, tmp_path: Path) -> None:
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    importing = begin(desk, CLOISTER, "dataset", "import", str(fifo), "--name", "slow")
    with fifo.open("w") as rows:
        row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
        until(lambda: any(job.state == "running" for job in desk.client.jobs()))
        assert "goes on. See `cloister status`" in leave(importing)
        draining = begin(desk, CLOISTER, "lock", "--drain")
        until(lambda: any("LOCKING" in warning for warning in desk.client.status().warnings))
        said = leave(draining)
        assert "draining goes on" in said and "`cloister lock --cut`" in said
        assert any("LOCKING" in warning for warning in desk.client.status().warnings)
        for number in range(20):
            row["messages"][0]["content"] = f"question {number}"
            rows.write(json.dumps(row) + "\n")
    until(lambda: desk.client.status().locked)
    assert [job.state for job in desk.client.jobs()] == ["done"]
    desk.client.unlock(PASSPHRASE)


def test_a_passphrase_that_never_comes(desk: Appliance) -> None:
    waiting = begin(desk, CLOISTER, "unlock", "--passphrase-fd", "0")
    until(lambda: reads_standard_input(waiting.pid))
    assert "cloister status" in leave(waiting)


def reads_standard_input(pid: int) -> bool:
    """Whether it waits in the system call `read` for descriptor 0, and is not just starting."""
    read = {"x86_64": "0", "aarch64": "63"}[os.uname().machine]
    return Path(f"/proc/{pid}/syscall").read_text().split()[:2] == [read, "0x0"]


def test_with_json_it_is_one_document(desk: Appliance) -> None:
    waiting = begin(desk, CLOISTER, "unlock", "--passphrase-fd", "0", "--json")
    until(lambda: reads_standard_input(waiting.pid))
    os.killpg(waiting.pid, signal.SIGINT)
    out, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 130 and said == ""
    assert json.loads(out)["error"]["code"] == "left"


def test_an_interrupt_where_nothing_can_be_raised_comes_again() -> None:
    code = """
import os, signal, time, weakref
from cloister.cli.leaving import Left, attend_ctrl_c, leaving

class Thing: pass

try:
    with leaving():
        attend_ctrl_c()
        thing = Thing()
        watch = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0)))
        del thing
        time.sleep(10)
except Left:
    print("left")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("left\n", "")


AT_THE_END = """
import os, signal, sys
from contextlib import contextmanager
import cloister.cli.main as command

leaving = command.leaving

@contextmanager
def pressed_at_its_end():
    try:
        with leaving():
            yield
    finally:
        os.kill(os.getpid(), signal.SIGINT)

command.leaving = pressed_at_its_end
sys.argv = ["cloister", *sys.argv[1:]]
command.main()
"""


@pytest.mark.parametrize(("word", "code"), [("--version", 0), ("--no-such-option", 2)])
def test_one_that_comes_when_all_is_done_adds_nothing(word: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END, word], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr


def test_it_is_calm_from_the_first_moment_on(desk: Appliance) -> None:
    codes = set()
    for number in range(24):
        command = begin(desk, sys.executable, "-c", FROM_THE_START, "status")
        assert command.stdout is not None and command.stdout.readline() == "ready\n"
        time.sleep(number * 0.03)
        os.killpg(command.pid, signal.SIGINT)
        _, said = command.communicate(timeout=120)
        assert command.returncode in (0, 130), (number, said)
        assert "Traceback" not in said and "rror" not in said, (number, said)
        if command.returncode == 130:
            assert said.splitlines()[-1].startswith("left: "), (number, said)
        codes.add(command.returncode)
    assert 130 in codes
