"""A control group a sandbox, where the launcher owns a cgroup v2 subtree (systemd's `Delegate=yes`):
no swap for it, and a bound on its number of processes. Without one nothing here is used."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_MAX_PROCESSES = 4096


@dataclass(frozen=True)
class Cgroup:
    """One sandbox's group."""

    folder: Path

    def enter(self) -> None:
        """Move the calling process in. Run between fork and exec, so it must not fail quietly."""
        (self.folder / "cgroup.procs").write_text("0")

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of it for want of memory."""
        try:
            lines = (self.folder / "memory.events").read_text().splitlines()
        except OSError:
            return False
        counts = dict(line.split(" ", 1) for line in lines if " " in line)
        return int(counts.get("oom_kill", "0")) > 0

    def remove(self) -> None:
        """Remove the group of a sandbox that has ended."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class CgroupTree:
    """The launcher's own subtree; `open` gives None where there is none to be had."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, *, proc: Path = Path("/proc")) -> CgroupTree | None:
        """The subtree of the group that this process and its keeper are alone in, made ready for sandboxes."""
        root = _own_group(proc)
        if root is None:
            return None
        try:
            if "memory" not in (root / "cgroup.controllers").read_text().split():
                return None
            ours = (root / "cgroup.procs").read_text().split()
            if str(os.getpid()) not in ours or not {str(os.getpid()), str(os.getppid())}.issuperset(ours):
                return None
            own = root / "launcher"
            own.mkdir(exist_ok=True)
            for pid in ours:  # the launcher and the keeper that started it
                (own / "cgroup.procs").write_text(pid)
            try:
                (root / "cgroup.subtree_control").write_text("+memory +pids")
            except OSError:
                for pid in ours:
                    (root / "cgroup.procs").write_text(pid)
                own.rmdir()
                return None
        except OSError:
            return None
        return cls(root)

    def create(self, name: str) -> Cgroup | None:
        """A group without swap for one sandbox, None where the kernel refuses."""
        folder = self.root / name
        try:
            folder.mkdir(exist_ok=True)
            (folder / "memory.swap.max").write_text("0")
            (folder / "memory.oom.group").write_text("1")
            (folder / "pids.max").write_text(str(_MAX_PROCESSES))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            return None
        return Cgroup(folder)


def _own_group(proc: Path) -> Path | None:
    """The folder of this process's cgroup v2 group, None without one."""
    try:
        groups = (proc / "self" / "cgroup").read_text().splitlines()
        mounts = (proc / "self" / "mountinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    inside = next((line[3:] for line in groups if line.startswith("0::")), None)
    for line in mounts:
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 ") and inside is not None:
            folder = Path(before.split()[4]) / inside.lstrip("/")
            return folder if os.access(folder, os.W_OK) else None
    return None
