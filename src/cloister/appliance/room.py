"""Whether a job would fit into this machine's memory and onto its disk now, with something kept in reserve.

Rough on purpose: from the base model's size, never from data. It measures and estimates, and starts nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloister.appliance.devices import gpu_of
from cloister.policy.settings import QueueSettings

GIB = 1 << 30
_FACTORS = {"train": 3.0, "evaluate": 2.5, "merge": 3.0}
"""Host memory of a job on the CPU, in times the base model's 16-bit weights; on a GPU once suffices."""
_PROCESS = int(1.5 * GIB)
"""What a worker with torch takes before it has a model."""
_LIGHT = GIB // 4
_DISK = {"train": 0.5, "merge": 2.2}


@dataclass(frozen=True)
class Need:
    """Bytes of host memory and of the home's disk, estimated."""

    memory: int
    disk: int


def need_of(verb: str, base_bytes: int, device: str) -> Need:
    """What a job of that kind takes on a base model of that size."""
    if verb not in _FACTORS:
        return Need(_LIGHT, _LIGHT)
    factor = _FACTORS[verb] if gpu_of(device) is None else 1.0
    return Need(
        memory=_PROCESS + int(factor * base_bytes),
        disk=_LIGHT // 4 + int(_DISK.get(verb, 0.0) * base_bytes),
    )


def memory_of(field: str, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of a line of /proc/meminfo, such as MemAvailable."""
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) << 10
    raise OSError(f"{meminfo} has no {field}")


class Room:
    """Looks at the machine each time it is asked."""

    def __init__(
        self,
        settings: QueueSettings,
        folder: Path,
        *,
        memory: Callable[[str], int] = memory_of,
        disk: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._memory = memory
        self._disk = disk

    def lacks(self, need: Need) -> str | None:
        """What there is too little of now, in words; None where it fits."""
        reserve = int(self._settings.memory_reserve_gib * GIB)
        available = self._memory("MemAvailable")
        if available < need.memory + reserve:
            return _told("memory", need.memory, reserve, available)
        reserve = int(self._settings.disk_reserve_gib * GIB)
        free = self._disk(self._folder)
        if free < need.disk + reserve:
            return _told("disk", need.disk, reserve, free)
        return None

    def never(self, need: Need) -> str | None:
        """Why it would not fit into an idle machine either."""
        total = self._memory("MemTotal")
        if total >= need.memory:
            return None
        return f"needs about {need.memory / GIB:.1f} GiB of memory, and this machine has {total / GIB:.1f}"


def _told(what: str, need: int, reserve: int, free: int) -> str:
    return (
        f"{what}: needs about {need / GIB:.1f} GiB beside the {reserve / GIB:.1f} kept in reserve, "
        f"{free / GIB:.1f} are free"
    )
