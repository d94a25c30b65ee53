"""Keys go to expected processes of this account, once each, and to nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.errors import Denied, NotFound, Unavailable
from cloister.sandbox import KeyServer, fetch_key

KEY = bytes(range(32))
ASK = (
    "import sys; from pathlib import Path; from cloister.sandbox import fetch_key; from cloister.errors import *\n"
    "try: print(fetch_key(Path(sys.argv[1]), sys.argv[2], timeout_s=60).hex())\n"
    "except CloisterError as error: print(type(error).__name__)\n"
)


def ask(path: Path, name: str = "mm-000000000001", times: int = 1) -> list[str]:
    code = ASK.replace("try:", "for _ in range(int(sys.argv[3])):\n  try:").replace("\nexcept", "\n  except")
    command = [sys.executable, "-c", code, str(path), name, str(times)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_child_gets_a_key_once(tmp_path: Path) -> None:
    with KeyServer(tmp_path / "keys.sock", {"mm-000000000001": KEY}) as server:
        assert server.path.stat().st_mode & 0o777 == 0o600
        assert ask(server.path, times=2) == [KEY.hex(), "Denied"]
        assert ask(server.path) == [KEY.hex()]  # another process
        assert ask(server.path, "mm-000000000002") == ["NotFound"]
        assert ask(server.path, "../etc") == ["NotFound"]
    assert not server.path.exists()
    with pytest.raises(Unavailable):
        fetch_key(server.path, "mm-000000000001", timeout_s=0.1)


def test_a_grandchild_gets_a_key(tmp_path: Path) -> None:
    with KeyServer(tmp_path / "keys.sock", {"mm-000000000001": KEY}) as server:
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
        command = [sys.executable, "-c", code, ASK, str(server.path), "mm-000000000001"]
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == KEY.hex()


def test_a_process_that_nobody_expects_is_denied(tmp_path: Path) -> None:
    """The server runs in a child; this process is no descendant of it."""
    path = tmp_path / "keys.sock"
    code = (
        "import sys; from pathlib import Path; from cloister.sandbox import KeyServer\n"
        "server = KeyServer(Path(sys.argv[1]), {'mm-000000000001': bytes(range(32))})\n"
        "if sys.argv[2] != '0': server.expect(int(sys.argv[2]))\n"
        "print(1, flush=True); sys.stdin.read(); server.close()"
    )
    for expected in (0, os.getpid()):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(expected)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if expected:
                assert fetch_key(path, "mm-000000000001") == KEY
                with pytest.raises(NotFound):
                    fetch_key(path, "mm-000000000009")
            else:
                with pytest.raises(Denied):
                    fetch_key(path, "mm-000000000001")
            process.communicate()


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root to change account"
)
def test_another_account_is_denied(tmp_path: Path) -> None:
    folder = Path("/tmp", f"cloister-{os.urandom(4).hex()}")
    folder.mkdir(mode=0o755)
    try:
        with KeyServer(folder / "keys.sock", {"mm-000000000001": KEY}) as server:
            server.path.chmod(0o666)
            code = (
                "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
                "s.sendall(b'mm-000000000001\\n'); print(s.recv(64))"
            )
            ran = subprocess.run(
                [
                    "setpriv",
                    "--reuid",
                    "12345",
                    "--clear-groups",
                    "/usr/bin/python3",
                    "-c",
                    code,
                    str(server.path),
                ],
                capture_output=True,
                text=True,
            )
            assert ran.stdout.strip() == "b'd'", ran.stderr
    finally:
        folder.rmdir()
