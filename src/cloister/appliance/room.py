"""Whether a job or an engine would fit into this machine's memory and onto its disk now, with some kept in reserve.

Rough on purpose: from the base model's size and a source's format, never from data. It measures and estimates, and
starts nothing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cloister.api import ServeConfig
from cloister.appliance.devices import gpu_of
from cloister.policy.settings import QueueSettings

GIB = 1 << 30
_FACTORS = {"train": 3.0, "evaluate": 2.5, "merge": 3.0}
"""Host memory of a job on the CPU, in times the base model's 16-bit weights; on a GPU once suffices."""
_PROCESS = int(1.5 * GIB)
"""What a worker with torch takes before it has a model."""
_LIGHT = GIB // 4
_RECOGNISERS = frozenset({"report", "derive", "render"})
"""What may load recognisers of personal data, or a tokenizer: as much as torch."""
_DISK = {"train": 0.5, "merge": 2.2}
IMPORTS = frozenset({"import", "dry-run"})
_PARQUET = 896 << 20
"""What reading Parquet may hold in its own process (`datasets.parquet.MEMORY`), and pyarrow itself."""
_PERSONAL = 64 << 20
"""What recognisers of personal data take beside an import."""
_ROWS_AT_ONCE = 8
"""Of the longest that a row may be, in the widest place of a reader."""
_TEXT_NAMES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".text", ".md"})
_PACKED_NAMES = frozenset({".gz", ".zst", ".zstd"})


@dataclass(frozen=True)
class Need:
    """Bytes of host memory and of the home's disk, estimated."""

    memory: int = 0
    disk: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(self.memory + other.memory, self.disk + other.disk)

    def left(self, *, settled: bool, written: int) -> Need:
        """What a job that runs will still take: memory until it is `settled`, disk that it has not `written`."""
        return Need(0 if settled else self.memory, max(0, self.disk - written))


def need_of(verb: str, base_bytes: int, device: str, processes: int = 1) -> Need:
    """What a job of that kind takes on a base model of that size, which each of its processes has in memory."""
    if verb not in _FACTORS:
        return Need(_PROCESS if verb in _RECOGNISERS else _LIGHT, _LIGHT)
    factor = _FACTORS[verb] if gpu_of(device) is None else 1.0
    return Need(
        memory=processes * (_PROCESS + int(factor * base_bytes)),
        disk=_LIGHT // 4 + int(_DISK.get(verb, 0.0) * base_bytes),
    )


def need_of_import(config: Mapping[str, Any]) -> Need:
    """What an import, or a dry run of one, takes: by the format that is told, else by the source's name; what neither
    tells may be Parquet, which takes most."""
    memory = _LIGHT + _ROWS_AT_ONCE * int(config.get("max_row_bytes") or 0)
    told = config.get("format", "auto")
    names = (str(config.get("source_name", "")), *map(str, config.get("more", ())))
    if told == "parquet" or (told == "auto" and not all(map(_is_text, names))):
        memory += _PARQUET
    if config.get("personal") is not None:
        memory += _PERSONAL
    return Need(memory, _LIGHT)


def _is_text(name: str) -> bool:
    endings = [ending.lower() for ending in PurePosixPath(name).suffixes]
    if endings and endings[-1] in _PACKED_NAMES:
        endings.pop()
    return bool(endings) and endings[-1] in _TEXT_NAMES


def need_of_engine(config: ServeConfig, model_bytes: int, device: str) -> Need:
    """What an engine takes at least. On the way to a GPU the weights pass through host memory tensor by tensor."""
    if gpu_of(device) is not None:
        return Need(memory=_PROCESS)
    weights = model_bytes * (2 if config.dtype == "float32" else 1)
    return Need(memory=_PROCESS + weights + int(config.kv_cache_gib * GIB))


def written_in(folder: Path) -> int:
    """Bytes of what lies in a folder and below; what goes meanwhile counts for nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def memory_of(field: str, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of a line of /proc/meminfo, such as MemAvailable."""
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) << 10
    raise OSError(f"{meminfo} has no {field}")


def disk_of(folder: Path) -> tuple[int, int]:
    """Bytes of the folder's disk that are free, and that an empty one would have for us."""
    usage = shutil.disk_usage(folder)
    return usage.free, usage.free + usage.used


class Room:
    """Looks at the machine each time it is asked."""

    def __init__(
        self,
        settings: QueueSettings,
        folder: Path,
        *,
        memory: Callable[[str], int] = memory_of,
        disk: Callable[[Path], tuple[int, int]] = disk_of,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._memory = memory
        self._disk = disk

    def lacks(self, need: Need, promised: Need = Need()) -> str | None:
        """What there is too little of now, in words; None where it fits.

        `promised` is what earlier starts will still take: it looks free, and is not.
        """
        memory, disk = self._reserves()
        available = self._memory("MemAvailable")
        if available < need.memory + promised.memory + memory:
            return _told("memory", need.memory, memory, available, promised.memory)
        free, _ = self._disk(self._folder)
        if need.disk and free < need.disk + promised.disk + disk:
            return _told("disk", need.disk, disk, free, promised.disk)
        return None

    def never(self, need: Need) -> str | None:
        """Why it would not fit into an idle machine with an empty disk either."""
        memory, disk = self._reserves()
        total = self._memory("MemTotal")
        if total < need.memory + memory:
            return _too_large("memory", need.memory, memory, total)
        _, size = self._disk(self._folder)
        if need.disk and size < need.disk + disk:
            return _too_large("disk", need.disk, disk, size)
        return None

    def _reserves(self) -> tuple[int, int]:
        """Bytes of memory and of disk that no start may use up."""
        return int(self._settings.memory_reserve_gib * GIB), int(self._settings.disk_reserve_gib * GIB)


def _told(what: str, need: int, reserve: int, free: int, promised: int) -> str:
    taken = f", and what runs will still take {promised / GIB:.1f} of them" if promised else ""
    return (
        f"{what}: needs about {need / GIB:.1f} GiB beside the {reserve / GIB:.1f} kept in reserve, "
        f"{free / GIB:.1f} are free{taken}"
    )


def _too_large(what: str, need: int, reserve: int, total: int) -> str:
    return (
        f"needs about {need / GIB:.1f} GiB of {what} beside the {reserve / GIB:.1f} kept in reserve, and this "
        f"machine has {total / GIB:.1f}"
    )
