"""What `cloister doctor` looks at on this machine, each finding with what to do about it."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cloister import compiler
from cloister.cli import machine
from cloister.cli.finding import Finding
from cloister.home import Home

if TYPE_CHECKING:
    from cloister.api import Status

LOW_DISK_BYTES = 10 << 30
DRIVER = Path("/proc/driver/nvidia/version")
NUMA = "libnuma.so.1"


def examine(home: Home, *, try_device: bool = True) -> list[Finding]:
    """Every finding, in the order in which they matter. Trying the device takes some seconds."""
    return [
        _sandbox(home),
        _swap(),
        _cores(),
        *_folders(home),
        *machine.loose_files(home),
        machine.disk_below(home),
        machine.locked_memory(home),
        machine.clock(home),
        _disk(home),
        _memory(),
        machine.device() if try_device else _device(),
        *_libraries(),
        *_processes(home),
    ]


START = "systemctl start cloister.target"


def _state(home: Home) -> Status | None:
    """What the service says of itself; None where it says nothing to this account."""
    from cloister.client import Client
    from cloister.errors import CloisterError

    try:
        with Client(home.authority_socket) as client:
            return client.status()
    except CloisterError:
        return None


def _sandbox(home: Home) -> Finding:
    from cloister.sandbox import available

    if home.is_service:  # built by another account than this one
        state = _state(home)
        if state is None:
            return Finding("sandbox", "bad", "the service does not say whether it can build one", START)
        reason = None if state.sandbox == "bubblewrap" else state.sandbox
    else:
        reason = available(swap=False)
    if reason is None:
        return Finding("sandbox", "good", "bubblewrap builds one, with an empty network")
    return Finding("sandbox", "bad", reason, "Nothing confidential starts until this is mended.")


def _swap() -> Finding:
    from cloister.sandbox import swap_status

    status = swap_status()
    if not status.areas:
        return Finding("swap", "good", "none")
    if not status.unencrypted:
        return Finding("swap", "good", "all of it is encrypted or compressed memory")
    paths = ", ".join(area.path for area in status.unencrypted)
    return Finding("swap", "bad", f"not encrypted: {paths}", "swapoff -a, or put it on dm-crypt")


def _cores() -> Finding:
    try:
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    except OSError:
        return Finding("core dumps", "warn", "the kernel's core pattern cannot be read")
    if pattern.startswith("|"):
        return Finding(
            "core dumps",
            "warn",
            "a program collects cores; limits do not bind it",
            "Our processes are not dumpable; sysctl kernel.core_pattern=core makes sure.",
        )
    return Finding("core dumps", "good", "no program collects them")


def _libraries() -> Iterator[Finding]:
    """What vLLM needs of the machine and no wheel brings: its CPU build a library, the other one what compiles Triton's
    launcher. Without it an engine ends before it is ready."""
    if DRIVER.exists():
        if (lacking := compiler.missing()) is not None:
            yield Finding(
                "libraries",
                "bad",
                f"this machine lacks {lacking}: nothing can be served on a GPU",
                "apt-get install gcc libc6-dev python3-dev, or dnf install gcc python3-devel",
            )
        return
    try:
        ctypes.CDLL(NUMA)
    except OSError:
        remedy = "apt-get install libnuma1, or dnf install numactl-libs"
        yield Finding("libraries", "bad", f"{NUMA} is missing: nothing can be served on this CPU", remedy)


def _folders(home: Home) -> Iterator[Finding]:
    if not home.root.exists():
        yield Finding("home", "warn", f"{home.root} does not exist yet", "cloister up")
        return
    loose = [
        path
        for path in (home.root, home.keys, home.objects, home.work, home.state.parent, home.run)
        if path.exists() and _is_loose(path, door=path in (home.root, home.run))
    ]
    if loose:
        names = ", ".join(str(path) for path in loose)
        remedy = "deploy/install.sh" if home.is_service else f"chmod 700 {' '.join(map(str, loose))}"
        yield Finding("folders", "bad", f"open to other accounts: {names}", remedy)
    else:
        yield Finding("folders", "good", "closed to all accounts that have no business there")


def _is_loose(path: Path, *, door: bool) -> bool:
    """Whether others get in: through a `door` they may go, and a setgid bit says that a group may."""
    mode = stat.S_IMODE(path.stat().st_mode)
    closed = 0o066 if door else 0o007 if mode & stat.S_ISGID else 0o077
    return bool(mode & closed)


def _disk(home: Home) -> Finding:
    place = home.root if home.root.exists() else Path("/")
    free = shutil.disk_usage(place).free
    if free < LOW_DISK_BYTES:
        return Finding("disk", "warn", f"{free / 2**30:.1f} GiB free", "Make room before a large run.")
    return Finding("disk", "good", f"{free / 2**30:.0f} GiB free")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding("memory", "good", f"{total / 2**30:.0f} GiB, {os.cpu_count()} cores")


def _device() -> Finding:
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if cards:
        return Finding("device", "good", f"{len(cards)} NVIDIA GPU(s)")
    return Finding(
        "device", "warn", "no NVIDIA GPU: everything runs on the CPU, which is slow for large models"
    )


def _processes(home: Home) -> Iterator[Finding]:
    from cloister.embedded import running

    if home.is_service:
        state = _state(home)
        if state is None:
            yield Finding("authority", "warn", "does not answer", START)
        for process in state.processes if state else ():
            good = process.state == "running"
            yield Finding(process.name, "good" if good else "warn", process.state, None if good else START)
        return
    for name, pid in running(home).items():
        if pid is None:
            yield Finding(name, "warn", "does not run", "cloister up")
        else:
            yield Finding(name, "good", f"runs (pid {pid})")
