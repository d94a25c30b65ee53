"""What the host offers: whether a sandbox can be built here at all, and whether memory can reach a disk.

Asked by the launcher and by `doctor` before anything confidential starts. It changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from cloister.api import SandboxSpec
from cloister.errors import SandboxUnavailable
from cloister.sandbox import seccomp
from cloister.sandbox.command import BWRAP, PythonPaths
from cloister.sandbox.spawn import spawn_sandbox

_TRIAL = SandboxSpec(sandbox_id="jb-000000000000", program="worker", tmp_mib=8, shm_mib=8)


@dataclass(frozen=True)
class SwapArea:
    """One line of `/proc/swaps`. `safe` means that what lands there is unreadable once power is off."""

    path: str
    size_bytes: int
    used_bytes: int
    safe: bool
    why: str


@dataclass(frozen=True)
class SwapStatus:
    areas: tuple[SwapArea, ...]

    @property
    def unencrypted(self) -> tuple[SwapArea, ...]:
        return tuple(area for area in self.areas if not area.safe)


def available(*, bwrap: str = BWRAP, swap: bool = True) -> str | None:
    """None where a sandbox can be built on this machine, else the reason and what to do about it.

    Builds a real one and runs `true` in it. With `swap`, unencrypted swap is a reason too.
    """
    if shutil.which(bwrap) is None:
        return (
            "bubblewrap is not installed. Install it: apt-get install bubblewrap, or dnf install bubblewrap."
        )
    try:
        seccomp.program()
    except ValueError as error:
        return str(error)
    reason = _try_one(bwrap)
    if reason is not None:
        return reason
    if swap:
        areas = swap_status().unencrypted
        if areas:
            named = ", ".join(area.path for area in areas)
            return (
                f"Swap is on without encryption ({named}): plaintext in memory could reach that disk. "
                "Turn it off (swapoff -a, and its line in /etc/fstab) or put it on dm-crypt or zram."
            )
    return None


def require(*, bwrap: str = BWRAP, swap: bool = True) -> None:
    """`available`, as an error.

    Raises:
        SandboxUnavailable: with the reason.
    """
    reason = available(bwrap=bwrap, swap=swap)
    if reason is not None:
        raise SandboxUnavailable(reason)


def swap_status(*, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> SwapStatus:
    """The machine's swap areas, and for each whether it is encrypted or memory itself."""
    areas = []
    try:
        lines = (proc / "swaps").read_text().splitlines()[1:]
    except OSError:
        lines = []
    for line in lines:
        fields = line.split()
        if len(fields) < 4:
            continue
        path = fields[0].replace("\\040", " ")
        safe, why = _judge(path, fields[1], sys)
        areas.append(SwapArea(path, int(fields[2]) << 10, int(fields[3]) << 10, safe, why))
    return SwapStatus(tuple(areas))


def encrypted_below(
    path: Path, *, proc: Path = Path("/proc"), sys: Path = Path("/sys")
) -> tuple[bool | None, str]:
    """Whether what lies at `path` is unreadable once power is off, and why; None where that cannot be told.

    Follows the block device below the file system to dm-crypt, through LVM and RAID.
    """
    number = path.stat().st_dev
    kind, source = _mounted(path, proc)
    if kind in ("tmpfs", "ramfs"):
        return True, "memory"
    if os.major(number) == 0:  # a file system that spans devices of its own accord
        try:
            device = Path(source).resolve(strict=True).name if source.startswith("/dev/") else ""
        except OSError:
            device = ""
        if not device:
            return None, f"{kind or 'a file system'} without a block device of its own"
    else:
        place = sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
        try:
            device = place.resolve(strict=True).name
        except OSError:
            return None, "its block device was not found"
    return _judge_device(device, sys, depth=0)


def _mounted(path: Path, proc: Path) -> tuple[str, str]:
    """Kind and source of the file system at `path`."""
    number = path.stat().st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    try:
        lines = (proc / "self" / "mountinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return "", ""
    for line in reversed(lines):
        mount, _, rest = line.partition(" - ")
        if mount.split()[2:3] == [wanted] and len(rest.split()) >= 2:
            kind, source = rest.split()[:2]
            return kind, source
    return "", ""


def _try_one(bwrap: str) -> str | None:
    """Build the smallest sandbox there is, with all that a real one has."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    read = write = -1
    try:
        read, write = os.pipe2(os.O_CLOEXEC)
        python = PythonPaths.current()
        spawned = spawn_sandbox(
            _TRIAL,
            stdin=null,
            stdout=null,
            stderr=write,
            python=python,
            program=["/usr/bin/true"],
            bwrap=bwrap,
        )
        os.close(write)
        write = -1
        with os.fdopen(os.dup(read), "rb") as stream:
            said = stream.read(4096).decode(errors="replace").strip()
        _, status = os.waitpid(spawned.pid, 0)
        spawned.close()
    finally:
        for descriptor in (read, write, null):
            if descriptor >= 0:
                os.close(descriptor)
    if os.waitstatus_to_exitcode(status) == 0:
        return None
    first = said.splitlines()[0][:300] if said else "it said nothing"
    return f"bubblewrap cannot build a sandbox here: {first}. {_remedy(first)}"


def _remedy(said: str) -> str:
    limit = Path("/proc/sys/user/max_user_namespaces")
    if limit.exists() and limit.read_text().strip() == "0":
        return "User namespaces are off: sysctl user.max_user_namespaces=15000."
    if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists() and "ermission" in said:
        return "AppArmor denies unprivileged user namespaces: install an AppArmor profile for bwrap."
    if "seccomp" in said:
        return "The kernel has no seccomp filters: it needs CONFIG_SECCOMP_FILTER."
    if "Unknown option" in said or "unknown option" in said:
        return "bubblewrap 0.8 or newer is needed."
    return f"Kernel {platform.release()}; try `bwrap --unshare-all --ro-bind /usr /usr true` by hand."


def _judge(path: str, kind: str, sys: Path) -> tuple[bool, str]:
    try:
        if kind == "partition":
            device = Path(path).resolve().name
        else:
            number = Path(path).stat().st_dev
            device = (
                (sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}").resolve(strict=True).name
            )
    except OSError:
        return False, "its block device was not found"
    return _judge_device(device, sys, depth=0)


def _judge_device(device: str, sys: Path, depth: int) -> tuple[bool, str]:
    block = sys / "class" / "block" / device
    if depth > 8 or not block.exists():
        return False, "its block device was not found"
    if device.startswith("zram"):
        backing = _read(block / "backing_dev")
        return (True, "zram") if backing in ("", "none") else (False, "zram that writes to a disk")
    if _read(block / "dm" / "uuid").startswith("CRYPT-"):
        return True, "dm-crypt"
    slaves = block / "slaves"
    below = sorted(slaves.iterdir()) if slaves.is_dir() else []
    if below and all(_judge_device(slave.name, sys, depth + 1)[0] for slave in below):
        return True, "on dm-crypt"
    return False, "no dm-crypt below it"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
