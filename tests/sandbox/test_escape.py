"""From inside a real sandbox nothing of the host can be reached; outside, the same attempts succeed."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloister.api import Mount, SelfCheckConfig
from cloister.sandbox import self_check

PROBE = """
import json, socket, sys
from pathlib import Path
def attempt(action):
    try:
        return [True, str(action())]
    except OSError as error:
        return [False, type(error).__name__]
def connect(family, kind, address):
    with socket.socket(family, kind) as sock:
        sock.settimeout(20)
        sock.connect(address)
        if kind == socket.SOCK_DGRAM:
            sock.send(b"ask")
            return sock.recv(8)
targets = json.loads(sys.stdin.read())
told = {}
for path in targets["unix"]:
    address = chr(0) + path[1:] if path.startswith("@") else path
    told["unix " + path] = attempt(lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, address))
for name, family, kind, address in targets["net"]:
    told[name] = attempt(lambda: connect(family, kind, tuple(address)))
for path in targets["read"]:
    told["read " + path] = attempt(lambda: Path(path).stat().st_size)
print(json.dumps(told))
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Listeners of every kind on the host, and files that its owner can read."""
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    secret = home / "secret.txt"
    secret.write_text("not for the sandbox")
    abstract = f"@cloister-test-{os.urandom(6).hex()}"
    unix = [str(home / "run" / "authority.sock"), str(tmp_path / "s.sock"), abstract]
    net: list[Any] = []
    with ExitStack() as stack:
        for path in unix:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind("\0" + path[1:] if path.startswith("@") else path)
            sock.listen()
        own = own_address()
        places = [("loopback", socket.AF_INET, "127.0.0.1")]
        if socket.has_ipv6 and loopback6():
            places.append(("loopback6", socket.AF_INET6, "::1"))
        if own:
            places.append(("own", socket.AF_INET, own))
        for name, family, address in places:
            tcp = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            tcp.bind((address, 0))
            tcp.listen()
            net.append((f"tcp {name}", int(family), int(socket.SOCK_STREAM), tcp.getsockname()[:2]))
            udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            udp.bind((address, 0))
            threading.Thread(target=echo, args=(udp,), daemon=True).start()
            net.append((f"udp {name}", int(family), int(socket.SOCK_DGRAM), udp.getsockname()[:2]))
        yield {"unix": unix, "net": net, "read": [str(secret), "/etc/shadow", "/etc/hostname", "/var/log"]}


def echo(sock: socket.socket) -> None:
    try:
        while True:
            data, peer = sock.recvfrom(64)
            sock.sendto(data, peer)
    except OSError:
        return


def own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(sock.getsockname()[0])


def loopback6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
        return True


def test_nothing_of_the_host_answers_inside(
    inside: Callable[..., Any], host: dict[str, Any], tmp_path: Path
) -> None:
    asked = json.dumps(host).encode()
    outside = probe_outside(asked, tmp_path)
    assert all(reached for reached, _ in outside.values()), "the probe itself works, so it would find a way"
    ran = inside(PROBE, stdin=asked)
    assert ran.status == 0, ran.errors
    told = json.loads(ran.output)
    assert set(told) == set(outside)
    assert {name: said for name, said in told.items() if said[0]} == {}


def probe_outside(asked: bytes, tmp_path: Path) -> dict[str, Any]:
    import subprocess
    import sys

    ran = subprocess.run([sys.executable, "-c", PROBE], input=asked, capture_output=True, check=True)
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_self_check_holds_inside_and_not_outside(inside: Callable[..., Any], host: dict[str, Any]) -> None:
    config = SelfCheckConfig(host_sockets=tuple(host["unix"]))
    ran = inside(
        "import sys; from cloister.sandbox import harden_process; harden_process()\n"
        "from cloister.api import SelfCheckConfig; from cloister.sandbox import self_check; import json\n"
        "print(json.dumps(self_check(SelfCheckConfig.model_validate_json(sys.stdin.read()))))",
        stdin=config.model_dump_json().encode(),
    )
    told = json.loads(ran.output)
    assert told["failed"] == []
    assert told["passed"] is True
    assert {f"unix:{path}" for path in host["unix"]} <= {check["name"] for check in told["checks"]}

    outside = self_check(config)
    assert outside["passed"] is False
    assert {f"unix:{path}" for path in host["unix"]} <= set(outside["failed"])
    assert {"seccomp", "mounts", "hidden:/etc/shadow", "dumpable"} <= set(outside["failed"])


def test_writing_reaches_only_the_output_folder(inside: Callable[..., Any], tmp_path: Path) -> None:
    out, source = tmp_path / "result", tmp_path / "source"
    out.mkdir()
    source.mkdir()
    (source / "file").write_text("input")
    ran = inside(
        "import os, json; from pathlib import Path\n"
        "def can(path):\n"
        "    try:\n"
        "        Path(path).write_text('x'); return True\n"
        "    except OSError: return False\n"
        "print(json.dumps([can('/out/made'), can('/tmp/x'), can('/dev/shm/x'), can('/in/source/file'),"
        " can('/in/source/new'), can('/x'), can('/usr/x'), can('/etc/passwd'), can('/in/x'), can('/dev/x'),"
        " can('/root/x'), can('/proc/self/comm'), can('/sys/devices/system/cpu/online')]))\n"
        "print(Path('/in/source/file').read_text(), os.getuid(), sorted(os.listdir('/')))",
        mounts=[
            Mount(source=str(out), inside="/out", writable=True),
            Mount(source=str(source), inside="/in/source"),
        ],
    )
    assert ran.status == 0, ran.errors
    first, second = ran.output.splitlines()
    assert json.loads(first) == [True, True, True] + [False] * 10
    assert second.startswith("input 1000 ")
    assert (out / "made").read_text() == "x"
    assert (out / "made").stat().st_uid == os.getuid()
    assert (source / "file").read_text() == "input"


def test_memory_folders_end_at_their_size(inside: Callable[..., Any]) -> None:
    ran = inside(
        "import errno\n"
        "for path in ('/tmp/big', '/dev/shm/big'):\n"
        "    size = 0\n"
        "    try:\n"
        "        with open(path, 'wb', buffering=0) as file:\n"
        "            while size < 64 << 20: size += file.write(bytes(1 << 20))\n"
        "    except OSError as error: print(size >> 20, error.errno == errno.ENOSPC)",
        tmp_mib=24,
        shm_mib=8,
    )
    assert ran.output.splitlines() == ["24 True", "8 True"]


def test_environment_and_descriptors_are_only_the_given_ones(
    inside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    stray = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(stray, True)
    read, write = os.pipe()
    os.write(write, b"through a descriptor")
    os.close(write)
    try:
        ran = inside(
            "import os; print('A_SECRET' in os.environ, os.environ['CLOISTER_SANDBOX'], os.environ['HOME'])\n"
            "print(os.read(3, 100).decode())\n"
            "print(sorted(int(n) for n in os.listdir('/proc/self/fd')))\n"
            "print(len([n for n in os.listdir('/proc') if n.isdigit()]))",
            extra=[read],
        )
    finally:
        os.close(read)
        os.close(stray)
    # 4 is the listing's own
    assert ran.output.splitlines() == [
        "False bwrap /tmp/home",
        "through a descriptor",
        "[0, 1, 2, 3, 4]",
        "2",
    ]


def test_torch_multiplies_and_ranks_talk_over_loopback(inside: Callable[..., Any]) -> None:
    ran = inside(
        "import torch, torch.distributed as dist\n"
        "a = torch.randn(64, 64, dtype=torch.bfloat16)\n"
        "print(tuple((a @ a).shape))\n"
        "dist.init_process_group('gloo', init_method='tcp://localhost:29511', rank=0, world_size=1)\n"
        "one = torch.ones(1); dist.all_reduce(one); print(one.item())\n"
        "dist.destroy_process_group()",  # else torch may end the process before what it printed is written
        tmp_mib=256,
    )
    assert ran.output.splitlines() == ["(64, 64)", "1.0"], ran.errors
