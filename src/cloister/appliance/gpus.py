"""This machine's GPUs as their driver tells of them, and the Xids that it reported, for as long as they matter.

`gpu_reader` reads, in a process of its own that is given up where it says nothing for too long: a driver that hangs
holds up no authority. Where there is no GPU nothing is started. What is wrong with a GPU `gpu_alarms` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog
from pydantic import ValidationError

from cloister.api import GpuStatus
from cloister.appliance.devices import Devices, gpus_present
from cloister.appliance.xids import known
from cloister.logs import place
from cloister.policy.settings import AlertSettings

log = structlog.get_logger()

LIBRARY = "libnvidia-ml.so.1"
RETRY_S = 60.0
MAX_LINE = 1 << 20
PAST_S = 3600.0
"""An Xid that asks for nothing more is told of for so long."""
COOLER_BY = 5
CALM_S = 60.0
"""Heat is over once the GPU is so many °C under its threshold and has slowed down for heat no more for so long."""

ABSENT = {
    "library": f"{LIBRARY} of the NVIDIA driver is not there",
    "driver": "the NVIDIA driver is not loaded",
    "package": "the Python package nvidia-ml-py is not installed",
}


def library_present(cache: Path = Path("/etc/ld.so.cache")) -> bool:
    """Whether the driver's library would be found. It is not loaded: this process holds keys."""
    named = (Path(folder) / LIBRARY for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder)
    try:
        return any(path.exists() for path in named) or LIBRARY.encode() in cache.read_bytes()
    except OSError:
        return False


class Heat:
    """Whether a GPU is too hot, without flapping: a function of what is read of it, one after the other."""

    def __init__(self) -> None:
        self.lasts = False
        self._slowed_at = 0.0

    def read(self, at: float, gpu: GpuStatus) -> None:
        """`at` in seconds, of a clock that only goes forward."""
        over = None
        if gpu.temperature_c is not None and gpu.slowdown_c is not None:
            over = gpu.temperature_c - gpu.slowdown_c
        slowed = any("heat" in reason for reason in gpu.throttled_by)
        if slowed:
            self._slowed_at = at
        if slowed or (over is not None and over >= 0):
            self.lasts = True
        elif (over is None or over <= -COOLER_BY) and at - self._slowed_at >= CALM_S:
            self.lasts = False


@dataclass(frozen=True)
class XidSeen:
    """An Xid of a GPU (None: the driver did not say of which), and who held it then."""

    gpu: int | None
    xid: int
    times: int
    last: datetime
    at: float
    holders: tuple[str, ...]


class Gpus:
    """Watches them, in the background."""

    def __init__(
        self,
        devices: Devices,
        settings: AlertSettings,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = devices
        self._every_s = settings.gpu_every_s
        self._silent_s = settings.gpu_silent_s
        self._now = now
        self._clock = clock
        self._read: list[GpuStatus] = []
        self._heat: dict[int, Heat] = {}
        self._xids: dict[tuple[int | None, int], XidSeen] = {}
        self.counted: dict[tuple[int | None, int], int] = {}
        """Xids since the authority started, by GPU and number."""
        self.problem: str | None = None
        """Why nothing is known of the GPUs, where there are some."""

    def listed(self) -> list[GpuStatus]:
        """Each as it was read last, with who holds it: ids of jobs and deployments."""
        return [
            gpu.model_copy(update={"holders": self._devices.holder(f"cuda:{gpu.number}")})
            for gpu in self._read
        ]

    def hot(self, number: int) -> bool:
        return number in self._heat and self._heat[number].lasts

    def xids(self) -> list[XidSeen]:
        """Those that matter still: of the last hour, and older ones whose GPU was not said to be well again."""
        well = {gpu.number for gpu in self._read if gpu.recovery == "none" and gpu.problem is None}
        for key, seen in list(self._xids.items()):
            asks = known(seen.xid).remedy in ("free", "reset", "reboot") and seen.gpu not in well
            if self._clock() - seen.at > PAST_S and not asks:
                del self._xids[key]
        return list(self._xids.values())

    async def run(self) -> None:
        """For ever, or not at all where there is no GPU."""
        if not gpus_present() and not library_present():
            return
        while await self._watch():
            await asyncio.sleep(min(RETRY_S, self._silent_s))

    async def _watch(self) -> bool:
        """Follow one reader to its end; whether to start another."""
        try:
            reader = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "cloister.appliance.gpu_reader",
                str(self._every_s),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                limit=MAX_LINE,
            )
        except OSError as error:
            self._fail("their reader does not start", place(error))
            return True
        assert reader.stdout is not None
        try:
            while True:
                async with asyncio.timeout(self._silent_s):
                    line = await reader.stdout.readline()
                if not line:
                    if self.problem is None:
                        self._fail("reading them ended", "eof")
                    break
                if not self._take(json.loads(line)):
                    return False
        except TimeoutError:
            self._fail(f"the NVIDIA driver has not answered for {self._silent_s:g} seconds", "silent")
        except (ValueError, ValidationError, KeyError, TypeError) as error:
            self._fail("what their reader says cannot be read", place(error))
        finally:
            with contextlib.suppress(ProcessLookupError):
                reader.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await reader.wait()
        await (
            reader.wait()
        )  # one that the driver holds stays until it lets go: no second one gets stuck beside it
        return True

    def _take(self, line: dict[str, object]) -> bool:
        """Take in one line; false where there is no GPU, and never will be."""
        if "gpus" in line:
            assert isinstance(line["gpus"], list)
            self._read = [GpuStatus.model_validate(one) for one in line["gpus"]]
            self.problem = None
            for gpu in self._read:
                self._heat.setdefault(gpu.number, Heat()).read(self._clock(), gpu)
        elif "xid" in line:
            assert isinstance(line["xid"], int)
            self._take_xid(line["gpu"] if isinstance(line["gpu"], int) else None, line["xid"])
        elif "none" in line:
            if not any(place.startswith("cuda:") for place in self._devices.places):
                return False
            self._fail(ABSENT[str(line["none"])], str(line["none"]))
        else:
            self._fail(f"the NVIDIA driver fails: {str(line['failed'])[:100]}", "nvml")
        return True

    def _take_xid(self, number: int | None, xid: int) -> None:
        log.warning("gpu.xid", gpu=number, xid=xid)
        key = (number, xid)
        self.counted[key] = self.counted.get(key, 0) + 1
        holders = tuple(self._devices.holder(f"cuda:{number}"))
        seen = XidSeen(number, xid, 1, self._now(), self._clock(), holders)
        before = self._xids.get(key)
        if before is not None:  # who held it at first stays named once it is free
            seen = replace(seen, times=before.times + 1, holders=holders or before.holders)
        self._xids[key] = seen

    def _fail(self, problem: str, cause: str) -> None:
        if self.problem != problem:
            log.warning("gpus.unknown", cause=cause)
        self.problem = problem
        self._read = [
            GpuStatus(number=gpu.number, index=gpu.index, name=gpu.name, problem="unknown")
            for gpu in self._read
        ]
