"""The machine that the console runs on, which is the appliance's own: its memory and its load. It asks nobody."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """Bytes of memory, and what wants to run at once over the last minute, beside how many cores there are."""

    memory_used: int
    memory_total: int
    load: float
    cores: int


def look(proc: Path = Path("/proc")) -> Machine | None:
    """How it is now, as the kernel tells (proc_meminfo(5), proc_loadavg(5)); None where it does not."""
    try:
        lines = (line.partition(":") for line in (proc / "meminfo").read_text(encoding="ascii").splitlines())
        kib = {name: int(value.split()[0]) for name, _, value in lines if value.strip()}
        load = float((proc / "loadavg").read_text(encoding="ascii").split()[0])
        total, free = kib["MemTotal"], kib["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return Machine((total - free) << 10, total << 10, load, os.cpu_count() or 1)
