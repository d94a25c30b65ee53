"""Attempts, from inside, to get out; run by a worker so that a promise is tried and not assumed.

Every check names what it tried. None of them writes anything that stays. It knows only what it is
told of the host: paths of sockets that exist there.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloister.api import SelfCheckConfig
from cloister.sandbox.harden import core_limit, dumpable, no_new_privileges
from cloister.sandbox.seccomp import SYSTEM_CALLS

_TIMEOUT_S = 1.0
_HIDDEN = (
    "/etc/shadow",
    "/root/.ssh",
    "/home",
    "/var",
    "/boot",
    "/run/dbus",
    "/run/systemd",
    "/run/user",
    "/etc/ssh",
    "/etc/resolv.conf",
    "/dev/kmsg",
    "/dev/mem",
    "/dev/fuse",
    "/dev/vda",
    "/dev/sda",
    "/dev/nvme0n1",
    "/sys/fs/cgroup",
    "/sys/kernel",
)
_WRITABLE = ("/tmp", "/dev/shm", "/out", "/run/engine")  # noqa: S108
_UNWRITABLE = ("/", "/usr", "/etc", "/in", "/dev", "/run", "/sys/devices/system", "/proc/sys/kernel")
_MACHINE_FILES = ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class Check:
    """One attempt. `passed` means that the sandbox held."""

    name: str
    passed: bool
    detail: str


def self_check(config: SelfCheckConfig) -> dict[str, Any]:
    """Try everything and say what held.

    Returns:
        `passed`; `failed`, the names of what did not hold; `checks`, a list of {name, passed, detail}.
    """
    checks = [*_network(), *_sockets(config.host_sockets), *_files(), *_process(), *_kernel()]
    failed = [check.name for check in checks if not check.passed]
    return {"passed": not failed, "failed": failed, "checks": [asdict(check) for check in checks]}


def quick_check() -> tuple[str, ...]:
    """The essentials, in about a millisecond: what is missing of them, in words; empty when all holds.

    A worker calls it before it reads a key's object and refuses to go on otherwise.
    """
    missing = []
    if _interfaces() - {"lo"}:
        missing.append("there is a network interface beside loopback")
    if dumpable():
        missing.append("the process can be dumped")
    if core_limit() != 0:
        missing.append("core files are allowed")
    status = _status()
    if status.get("NoNewPrivs") != "1":
        missing.append("new privileges can be gained")
    if status.get("Seccomp") != "2":
        missing.append("there is no system-call filter")
    if int(status.get("CapEff", "1"), 16) != 0:
        missing.append("the process has capabilities")
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        missing.append("the root can be written")
    return tuple(missing)


def _network() -> Iterator[Check]:
    def lookup() -> str:
        socket.getaddrinfo("example.org", 443)
        return "a name was resolved"

    def connect(family: int, kind: int, address: tuple[Any, ...]) -> Callable[[], str]:
        def attempt() -> str:
            with socket.socket(family, kind) as sock:
                sock.settimeout(_TIMEOUT_S)
                sock.connect(address)
                if kind == socket.SOCK_DGRAM:
                    sock.send(b"\0")
            return f"{address[0]} was reached"

        return attempt

    yield _blocked("dns", lookup)
    yield _blocked("tcp", connect(socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 443)))
    yield _blocked("udp", connect(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53)))
    yield _blocked("tcp6", connect(socket.AF_INET6, socket.SOCK_STREAM, ("2001:db8::1", 443)))
    yield _blocked("udp6", connect(socket.AF_INET6, socket.SOCK_DGRAM, ("2001:db8::1", 53)))
    yield _blocked("metadata-service", connect(socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80)))
    outside = sorted(_interfaces() - {"lo"})
    yield Check("interfaces", not outside, ", ".join(outside) or "loopback alone")
    for name, family in (("packet", 17), ("vsock", 40), ("alg", 38), ("bluetooth", 31)):
        yield _blocked(f"family-{name}", lambda family=family: _open_family(family))  # type: ignore[misc]


def _sockets(host_sockets: tuple[str, ...]) -> Iterator[Check]:
    """`@name` is an abstract socket; the others are paths."""
    usual = (
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/var/run/docker.sock",
        "@/tmp/.X11-unix/X0",
    )
    for path in (*host_sockets, *usual):

        def attempt(path: str = path) -> str:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(_TIMEOUT_S)
                sock.connect("\0" + path[1:] if path.startswith("@") else path)
            return "it answered"

        yield _blocked(f"unix:{path}", attempt)


def _files() -> Iterator[Check]:
    for path in _HIDDEN:
        yield Check(
            f"hidden:{path}", not Path(path).exists(), "absent" if not Path(path).exists() else "in sight"
        )
    for path in _UNWRITABLE:
        if Path(path).is_dir():
            yield _blocked(f"write:{path}", lambda path=path: _create_in(path))  # type: ignore[misc]
    for path in _MACHINE_FILES:
        yield _blocked(f"write:{path}", lambda path=path: _open_for_writing(path))  # type: ignore[misc]
    for prefix in sorted({sys.prefix, sys.base_prefix}):
        yield _blocked(f"write:{prefix}", lambda prefix=prefix: _create_in(prefix))  # type: ignore[misc]
    mounts = [
        line.split() for line in Path("/proc/self/mounts").read_text("utf-8", errors="replace").splitlines()
    ]
    loose = [
        mount[1]
        for mount in mounts
        if "rw" in mount[3].split(",")
        and mount[1] not in _WRITABLE
        and not mount[1].startswith("/dev/")
        and mount[2] != "proc"
    ]
    yield Check(
        "mounts", not loose, f"writable: {', '.join(loose)}" if loose else "only the promised ones write"
    )
    for path in ("/tmp", "/dev/shm"):  # noqa: S108
        kinds = [mount[2] for mount in mounts if mount[1] == path]
        yield Check(f"memory:{path}", kinds[-1:] == ["tmpfs"], kinds[-1] if kinds else "not a mount")


def _process() -> Iterator[Check]:
    status = _status()
    yield Check("dumpable", not dumpable(), "not dumpable" if not dumpable() else "dumpable")
    yield Check("core-limit", core_limit() == 0, str(core_limit()))
    yield Check("no-new-privileges", no_new_privileges(), status.get("NoNewPrivs", "?"))
    yield Check("capabilities", int(status.get("CapBnd", "1"), 16) == 0, status.get("CapBnd", "?"))
    yield Check("seccomp", status.get("Seccomp") == "2", status.get("Seccomp", "?"))
    pids = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    first = Path("/proc/1/comm").read_text().strip()
    yield Check("processes", first == "bwrap", f"{len(pids)} in sight, the first is {first}")


def _kernel() -> Iterator[Check]:
    """System calls by number, through libc, so that a missing Python wrapper hides nothing. Each is made
    in a child: where one is allowed, it changes nothing here."""
    libc = ctypes.CDLL(None, use_errno=True)
    column = 0 if os.uname().machine == "x86_64" else 1

    def call(name: str, *arguments: int) -> Callable[[], str]:
        def attempt() -> str:
            number = ctypes.c_long(SYSTEM_CALLS[name][column] or -1)
            code = _in_child(lambda: libc.syscall(number, *(ctypes.c_long(value) for value in arguments)))
            if code in (errno.EPERM, errno.ENOSYS):
                raise OSError(code, os.strerror(code))
            return f"it got as far as {errno.errorcode.get(code, code)}" if code else "it was allowed"

        return attempt

    yield _blocked("user-namespace", call("unshare", 0x10000000))
    yield _blocked("mount-namespace", call("unshare", 0x00020000))
    yield _blocked("clone-namespace", call("clone", 0x10000000 | 17, 0, 0, 0, 0))
    yield _blocked("ptrace", call("ptrace", 0, 0, 0, 0))
    yield _blocked("bpf", call("bpf", 0, 0, 0))
    yield _blocked("perf-events", call("perf_event_open", 0, 0, -1, -1, 0))
    yield _blocked("keyring", call("keyctl", 0, -3, 0, 0, 0))
    yield _blocked("io-uring", call("io_uring_setup", 1, 0))
    yield _blocked("userfaultfd", call("userfaultfd", 0))
    yield _blocked("mount", call("mount", 0, 0, 0, 0, 0))
    yield _blocked("open-by-handle", call("open_by_handle_at", -100, 0, 0))
    yield _blocked("terminal-typing", call("ioctl", 0, 0x5412, 0))
    yield _blocked("other-process-memory", call("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0))
    yield _allowed("map-memory", lambda: mmap.mmap(-1, 1 << 20).close())
    yield _allowed("loopback", _loopback)


def _in_child(call: Callable[[], int]) -> int:
    """The `errno` that a system call gives in a child of this process, 0 where it succeeds."""
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.set_errno(0)
            failed = call() < 0
            os._exit(min(ctypes.get_errno(), 255) if failed else 0)
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _blocked(name: str, attempt: Callable[[], str]) -> Check:
    try:
        said = attempt()
    except OSError as error:
        return Check(name, True, _word(error))
    return Check(name, False, said)


def _allowed(name: str, attempt: Callable[[], None]) -> Check:
    try:
        attempt()
    except OSError as error:
        return Check(name, False, _word(error))
    return Check(name, True, "works")


def _word(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no name service"
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _open_family(family: int) -> str:
    socket.socket(family, socket.SOCK_RAW if family == 17 else socket.SOCK_SEQPACKET).close()
    return "it opened"


def _create_in(folder: str) -> str:
    path = Path(folder, f".cloister-{os.getpid()}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    path.unlink()
    return "a file could be made"


def _open_for_writing(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY))
    return "it opens for writing"


def _loopback() -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        closing(socket.create_connection(server.getsockname(), timeout=_TIMEOUT_S)),
    ):
        pass


def _interfaces() -> set[str]:
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return {line.split(":", 1)[0].strip() for line in lines}


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
