"""What `cloister doctor` asks the machine itself: the disk below, the clock, locked memory, the device.

The device is tried for real, by a program in a sandbox: the command line itself loads no torch.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloister.cli.finding import Finding
from cloister.home import Home

TRIAL_TIMEOUT_S = 180.0
CARDS = Path("/proc/driver/nvidia/gpus")
UVM = Path("/dev/nvidia-uvm")
BORN = 1_790_000_000
"""A moment in September 2026: a clock before it is wrong."""

_UNSYNCHRONISED = 0x40
_TIME_ERROR = 5
_KEY_PAGES_BYTES = 1 << 16
"""Enough for a vault's keys, a page each."""


def disk_below(home: Home) -> Finding:
    """Whether the disk below the home is encrypted."""
    from cloister.sandbox.host import encrypted_below

    place = next(path for path in (home.root, *home.root.parents) if path.exists())
    safe, why = encrypted_below(place)
    if safe:
        return Finding("disk encryption", "good", why)
    finding = f"cannot be told: {why}" if safe is None else f"{place}: {why}"
    return Finding(
        "disk encryption",
        "warn",
        finding,
        "Objects are sealed; names, sizes and times are not. Put the home on dm-crypt (LUKS).",
    )


def clock(home: Home, now: float | None = None) -> Finding:
    """Whether the clock is set and kept: expiries and the order of entries lean on it."""
    now = time.time() if now is None else now
    if now < BORN:
        return Finding("clock", "bad", "it is before the year in which this was made", "Set the clock.")
    newest = max((_changed(path) for path in _dated(home)), default=0.0)
    if newest > now + 60:
        ahead = round((newest - now) / 60)
        return Finding(
            "clock",
            "bad",
            f"what was written last is {ahead} minutes in the future: the clock went back",
            "Set the clock before entries are made.",
        )
    kept = synchronised()
    if kept is False:
        return Finding(
            "clock",
            "warn",
            "nothing keeps it right",
            "Run chrony or systemd-timesyncd, also in a closed network.",
        )
    return Finding("clock", "good", "synchronised" if kept else "set; who keeps it right cannot be told")


def synchronised() -> bool | None:
    """Whether the kernel takes the clock for synchronised (adjtimex(2)); None where it does not say."""
    buffer = ctypes.create_string_buffer(256)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    status = int.from_bytes(buffer.raw[40:44], "little")
    return state != _TIME_ERROR and not status & _UNSYNCHRONISED


def locked_memory(home: Home) -> Finding:
    """Whether keys stay out of swap: what a running authority has locked, else what the limit allows."""
    from cloister.embedded import listener_pid

    pid = listener_pid(home.authority_socket) if home.authority_socket.exists() else None
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if pid is not None:
        limit, locked = _limit_of(pid, "Max locked memory", limit), _locked_kib(pid)
        if _limit_of(pid, "Max core file size", 0) != 0:
            return Finding("memory of keys", "bad", "the authority may write core files", "Restart it.")
        if locked:
            return Finding("memory of keys", "good", f"the authority keeps {locked} KiB of keys out of swap")
    if limit != resource.RLIM_INFINITY and limit < _KEY_PAGES_BYTES:
        return Finding(
            "memory of keys",
            "warn",
            f"at most {limit >> 10} KiB may be locked: keys could reach swap",
            "Raise LimitMEMLOCK of the service to 1M, or turn swap off.",
        )
    return Finding("memory of keys", "good", "the limit lets keys be locked in memory")


def _listed(folder: Path) -> list[Path]:
    """What is in a folder; nothing where it is closed to this account, as it should be."""
    try:
        return list(folder.iterdir())
    except PermissionError:
        return []


def loose_files(home: Home) -> Iterator[Finding]:
    """Files of keys, state and settings that other accounts may read or change."""
    places = [home.keys, home.state.parent, home.control_ledger.parent]
    files = [path for place in places if place.is_dir() for path in _listed(place) if path.is_file()]
    files += [path for path in (home.identity_file, home.settings_file) if path.is_file()]
    for path in files:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o022 or (mode & 0o044 and path.parent == home.keys):
            yield Finding("files", "bad", f"{path} is open to other accounts", f"chmod 600 {path}")


def device() -> Finding:
    """A real tensor quantised on the device that work would run on, in a sandbox."""
    cards = sorted(CARDS.glob("*/information"))
    answer = _trial(gpu_nodes())
    if answer is None:
        return Finding(
            "device", "bad", "the program that tries it did not answer", "Run it again; see dmesg."
        )
    if not answer.get("ok"):
        why = answer.get("problem") or f"NF4 came back with a mean error of {answer.get('error')}"
        return Finding(
            "device",
            "bad",
            f"torch and bitsandbytes do not work here: {why}",
            "Install the lock that fits the driver (deploy/setup.sh), or mend the driver.",
        )
    said = f"{answer['device']}: NF4 quantised and back, mean error {answer['error']}, {answer['seconds']} s"
    if cards and answer["device"] == "CPU":
        said = f"{len(cards)} NVIDIA GPU(s), but torch uses the CPU"
        if not UVM.exists():  # the driver makes it when root first computes; in a sandbox nobody can
            return Finding("device", "bad", f"{said}: there is no {UVM}", "As root: nvidia-modprobe -u -c 0")
        return Finding("device", "bad", said, "Install the CUDA lock.")
    if not cards:
        return Finding("device", "warn", f"{said}; no NVIDIA GPU", "Large models are slow on a CPU.")
    return Finding("device", "good", f"{said}; {len(cards)} NVIDIA GPU(s)")


def gpu_nodes(folder: Path = Path("/dev")) -> tuple[int, ...]:
    """The numbers of the GPUs whose nodes are there: in a container not all, and not from 0 on."""
    names = (path.name.removeprefix("nvidia") for path in folder.glob("nvidia*"))
    return tuple(sorted(int(name) for name in names if name.isdigit()))


def _trial(gpus: tuple[int, ...]) -> dict[str, Any] | None:
    """What the trial program says, from inside a sandbox where one can be built."""
    from cloister.api import SandboxSpec
    from cloister.sandbox import PythonPaths, available, spawn_sandbox

    python = PythonPaths.current()
    spec = SandboxSpec(sandbox_id="jb-000000000000", program="worker", tmp_mib=512, shm_mib=64, gpus=gpus)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    read = write = -1
    try:
        read, write = os.pipe2(os.O_CLOEXEC)
        spawned = spawn_sandbox(
            spec,
            stdin=null,
            stdout=write,
            stderr=null,
            python=python,
            program=[str(python.executable), "-P", "-m", "cloister.worker.trial"],
            sandboxed=available(swap=False) is None,
        )
        os.close(write)
        write = -1
        said = _read_all(read, TRIAL_TIMEOUT_S)
        if said is None:
            os.kill(spawned.pid, 9)
        os.waitpid(spawned.pid, 0)
        spawned.close()
        answer = json.loads(said or b"null")
        return answer if isinstance(answer, dict) else None
    except (OSError, ValueError):
        return None
    finally:
        for descriptor in (read, write, null):
            if descriptor >= 0:
                os.close(descriptor)


def _read_all(descriptor: int, timeout_s: float) -> bytes | None:
    """Everything up to the end; None where it does not come in time."""
    end, said = time.monotonic() + timeout_s, b""
    while len(said) < 1 << 16:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return None
        piece = os.read(descriptor, 4096)
        if not piece:
            break
        said += piece
    return said


def _dated(home: Home) -> list[Path]:
    """Files that each start and each entry touch."""
    folders = [folder for folder in (home.keys, home.state.parent, home.control_ledger) if folder.is_dir()]
    return [path for folder in folders for path in _listed(folder)]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _limit_of(pid: int, name: str, otherwise: int) -> int:
    """A soft limit of a process, as /proc tells it to everybody."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return otherwise
    value = next((line[len(name) :].split()[0] for line in lines if line.startswith(name)), None)
    if value is None:
        return otherwise
    return resource.RLIM_INFINITY if value == "unlimited" else int(value)


def _locked_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmLck:")), 0)
