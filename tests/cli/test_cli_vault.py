"""`cloister vault` as an operator types it: descriptors, a real terminal, JSON, exit codes."""

from __future__ import annotations

import codecs
import json
import os
import pty
import resource
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import PASSPHRASE, Appliance, start_appliance

from cloister import embedded
from cloister.errors import OutOfSpace

CLOISTER = str(Path(sys.executable).parent / "cloister")


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    appliance = start_appliance(tmp_path_factory.mktemp("v") / "home", gateway=False)
    yield appliance
    appliance.client.close()
    embedded.stop(appliance.home)


def cloister(
    appliance: Appliance, *arguments: str, stdin: bytes = b"", code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "CLOISTER_HOME": str(appliance.home.root), "COLUMNS": "80"}
    done = subprocess.run(
        [CLOISTER, *arguments], input=stdin, capture_output=True, env=environment, timeout=120
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def answer(appliance: Appliance, *arguments: str, stdin: bytes = b"", code: int = 0) -> Any:
    return json.loads(cloister(appliance, *arguments, "--json", stdin=stdin, code=code).stdout)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, appliance: Appliance, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "CLOISTER_HOME": str(appliance.home.root), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [CLOISTER, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode  # a read may end within a character

    def read_until(self, text: str) -> str:
        """What is shown up to and with `text`."""
        while text not in self.shown:
            assert self._read(), self.shown
        found, self.shown = self.shown.split(text, 1)
        return found

    def type(self, text: str) -> None:
        os.write(self.master, text.encode() + b"\n")

    def end(self) -> int:
        while self._read():
            pass
        code = self.process.wait(120)
        os.close(self.master)
        return code

    def _read(self) -> bool:
        """What comes next; false once nothing can come any more."""
        ready, _, _ = select.select([self.master], [], [], 120)
        assert ready, self.shown
        try:
            piece = os.read(self.master, 4096)
        except OSError:  # the last who could write has ended
            piece = b""
        self.shown += self._decode(piece)
        return bool(piece)


def test_a_second_passphrase_through_one_descriptor(safe: Appliance) -> None:
    both = f"{PASSPHRASE}\nthe second\n".encode()
    options = ("--memory-mib", "8", "--iterations", "1")
    add = ("vault", "slot", "add", "passphrase", "--proof-fd", "0", "--passphrase-fd", "0", *options)
    assert answer(safe, *add, stdin=both) == {"slot": 2, "kind": "passphrase"}
    wrong = answer(safe, *add, stdin=b"wrong\nthe third\n", code=6)
    assert wrong["error"]["code"] == "unauthenticated"
    listed = answer(safe, "vault", "slot", "list")
    assert [(slot["slot"], slot["kind"], slot["state"]) for slot in listed] == [
        (1, "passphrase", "good"),
        (2, "passphrase", "good"),
    ]
    assert b"Argon2id" in cloister(safe, "vault", "slot", "list").stdout
    remove = ("vault", "slot", "remove", "2", "--proof-fd", "0")
    cloister(safe, *remove, stdin=b"the second\n", code=6)
    assert answer(safe, *remove, stdin=PASSPHRASE.encode() + b"\n") == {"ok": True, "removed": 2}
    last = cloister(safe, "vault", "slot", "remove", "1", "--proof-fd", "0", stdin=b"x\n", code=4)
    assert b"last unlock slot" in last.stderr
    assert b"--proof-fd" in cloister(safe, *remove[:4], code=2).stderr


def test_a_credential_goes_into_a_pipe_and_opens_the_vault(safe: Appliance, tmp_path: Path) -> None:
    add = ("vault", "slot", "add", "credential", "--proof-fd", "0")
    done = cloister(safe, *add, stdin=PASSPHRASE.encode() + b"\n")
    key = done.stdout
    assert len(key) == 32 and b"opens the vault" in done.stderr
    cloister(safe, "lock")
    cloister(safe, "unlock", "--key-fd", "0", stdin=os.urandom(32), code=6)
    assert answer(safe, "unlock", "--key-fd", "0", stdin=key)["open"]
    assert b"--out-fd" in cloister(safe, *add, "--json", stdin=b"x\n", code=2).stdout


def test_a_key_that_could_not_be_written_whole_opens_nothing(safe: Appliance, tmp_path: Path) -> None:
    """Where there is room for half of it."""
    slots = answer(safe, "vault", "slot", "list")
    with (tmp_path / "key").open("wb") as out:
        add = ("vault", "slot", "add", "credential", "--proof-fd", "0", "--out-fd", str(out.fileno()))
        ended = subprocess.run(
            [CLOISTER, *add],
            input=PASSPHRASE.encode() + b"\n",
            capture_output=True,
            env={**os.environ, "CLOISTER_HOME": str(safe.home.root), "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=[out.fileno()],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)),
            timeout=120,
        )
    assert (tmp_path / "key").stat().st_size == 16
    assert ended.returncode == OutOfSpace.exit_code, ended.stderr
    assert answer(safe, "vault", "slot", "list") == slots


def test_shares_on_a_terminal_are_shown_one_by_one_and_entered_by_two(safe: Appliance) -> None:
    refused = cloister(safe, "vault", "slot", "add", "shares", "--proof-fd", "0", stdin=b"x\n", code=2)
    assert b"terminal" in refused.stderr
    screen = Terminal(safe, "vault", "slot", "add", "shares", "-m", "2", "-n", "3")
    screen.read_until("Passphrase: ")
    screen.type(PASSPHRASE)
    shares = []
    for number in range(1, 4):
        screen.read_until(f"Share {number} of 3")
        words = screen.read_until("Enter when").split()
        shares.append(" ".join(word for word in words if not word.isdigit()))
        screen.type("")
    assert screen.end() == 0
    assert "\x1b[2J" in screen.shown  # the last one is cleared away too
    assert all(len(share.split()) == 33 for share in shares)
    cloister(safe, "lock")
    first = Terminal(safe, "unlock", "--with", "shares")
    first.read_until("Share 1")
    first.type(shares[2])
    first.read_until("1 of 2 shares")
    first.read_until("Share 2")
    first.type("")  # the other one is somebody else's
    assert first.end() == 0
    assert all(word not in first.shown for word in (" ".join(shares[2].split()[5:8]),))
    status = json.loads(cloister(safe, "status", "--json").stdout)
    assert status["locked"]
    second = Terminal(safe, "unlock", "--with", "shares")
    second.read_until("Share 1")
    second.type(shares[0] + " extra")
    assert second.end() == 2
    third = Terminal(safe, "unlock", "--with", "shares")
    third.read_until("Share 1")
    third.type(shares[0])
    third.read_until("The vault is open.")
    assert third.end() == 0
    cloister(safe, "lock")
    both = f"{shares[1]}\n{shares[0]}\n".encode()
    assert answer(safe, "unlock", "--shares-fd", "0", stdin=both)["open"]


def test_keys_are_rotated_and_the_vault_is_checked(safe: Appliance) -> None:
    done = answer(safe, "vault", "rotate", "kek")
    assert (done["version"], done["destroyed"], done["resumed"]) == (2, [1], False)
    assert b"version 3" in cloister(safe, "vault", "rotate", "kek").stderr
    good = answer(safe, "vault", "check")
    assert good["ok"] and good["problems"] == [] and good["keys"] > 1
    assert b"Good" in cloister(safe, "vault", "check", "--quick").stderr
    cloister(safe, "vault", "rotate", "object", "nothing", code=3)
    cloister(safe, "unlock", "--with", "token", "--key-fd", "0", code=2)


def test_the_root_key_is_rotated_and_one_slot_stays(safe: Appliance) -> None:
    rotated = answer(safe, "vault", "rotate", "root", "--proof-fd", "0", stdin=PASSPHRASE.encode() + b"\n")
    assert rotated["kept"] == 1 and len(rotated["ended"]) == 2
    assert len(answer(safe, "vault", "slot", "list")) == 1
    cloister(safe, "lock")
    assert answer(safe, "unlock", "--passphrase-fd", "0", stdin=PASSPHRASE.encode() + b"\n")["slot"] == 1
    assert answer(safe, "vault", "check")["ok"]
