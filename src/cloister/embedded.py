"""The embedded appliance: launcher, authority and gateway of the current user, started and stopped.

On a server systemd does this. Who listens on a socket is asked of the kernel, so there is no pid file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cloister.errors import Unavailable
from cloister.home import Home

if TYPE_CHECKING:
    pass

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
MODULES = {"launcher": "cloister.launcher", "authority": "cloister.appliance", "gateway": "cloister.gateway"}


def listener_pid(path: Path) -> int | None:
    """The process that listens on a Unix socket, or None where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(path))
        except OSError:
            return None
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("iII", raw)[0]) or None  # 0: of another namespace, not ours to signal


def gateway_pid(home: Home) -> int | None:
    """The gateway's process, or None where it does not run."""
    try:
        pid = int(json.loads(home.gateway_file.read_text())["pid"])
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # The file outlives a crash, and numbers of processes are used again.
    ours = MODULES["gateway"].encode() in arguments and os.fsencode(home.root) in arguments
    return pid if ours else None


def running(home: Home) -> dict[str, int | None]:
    """Each process of the appliance with its pid, or None."""
    return {name: _pid(home, name) for name in MODULES}


def _pid(home: Home, name: str) -> int | None:
    if name == "gateway":
        return gateway_pid(home)
    return listener_pid(home.launcher_socket if name == "launcher" else home.authority_socket)


def start(home: Home, *, gateway: bool = True, listen: str | None = None) -> list[str]:
    """Start what does not run, and wait until it answers. Returns the names of what was started.

    `listen` is the gateway's address where the settings' is not wanted. Errors: Unavailable, also for the
    home of an installed service, whose programs have accounts of their own.
    """
    if home.is_service:
        if listener_pid(home.authority_socket) is not None:
            return []
        raise Unavailable(
            "the appliance here is a service of the system, and does not answer",
            where=str(home.root),
            remedy="An administrator starts it (`systemctl start cloister.target`); "
            "`journalctl -u 'cloister*'` says why it ended.",
        )
    home.make()
    with _alone(home):
        return _start(home, gateway=gateway, listen=listen)


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One starts or stops at a time: a second one waits, and then finds it done."""
    lock = os.open(home.run / "embedded.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _start(home: Home, *, gateway: bool, listen: str | None) -> list[str]:
    from cloister.policy import load_settings

    load_settings(home.settings_file)  # what does not fit is said here, and not in a log
    started = []
    for name, module in MODULES.items():
        if (name == "gateway" and not gateway) or _pid(home, name):
            continue
        # -P: a file in the operator's folder may have any module's name, and is none of ours.
        arguments = [sys.executable, "-P", "-m", module, "--home", str(home.root)]
        if name != "authority":
            arguments += ["--settings", str(home.settings_file)]
        if name == "gateway" and listen is not None:
            arguments += ["--listen", listen]
        log_path = home.logs / f"{name}.log"
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                close_fds=True,
            )
        finally:
            os.close(log)
        end = time.monotonic() + START_TIMEOUT_S
        while not _pid(home, name):
            if process.poll() is not None or time.monotonic() > end:
                raise Unavailable(
                    f"the {name} did not start", where=str(log_path), remedy="Its last lines there say why."
                )
            time.sleep(0.02)
        started.append(name)
    return started


def stop(home: Home) -> list[str]:
    """Stop the gateway, the authority and the launcher, in that order. Returns what was stopped.

    Errors: Unavailable for the home of an installed service.
    """
    if home.is_service:
        raise Unavailable(
            "the appliance here is a service of the system",
            where=str(home.root),
            remedy="An administrator stops it: `systemctl stop cloister.target`.",
        )
    if not home.run.exists():
        return []
    with _alone(home):
        return _stop(home)


def _stop(home: Home) -> list[str]:
    pids = running(home)
    stopped = []
    for name in ("gateway", "authority", "launcher"):
        pid = pids[name]
        if pid is None:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        await_end(pid)
        stopped.append(name)
    return stopped


def await_end(pid: int, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Wait until a process has ended, all its threads and files with it; after the time it is killed."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([process], [], [], timeout_s)[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            select.select([process], [], [])
    finally:
        os.close(process)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
