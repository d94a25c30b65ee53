"""Who holds which device: GPUs one by one, or so many places on the CPU. Jobs and engines take from the same ones.

It knows names of devices and of their holders; what they do there it does not.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from cloister.errors import InvalidInput
from cloister.policy.settings import QueueSettings

CPU = "cpu"
_NODE = re.compile("nvidia([0-9]+)")


def gpus_present(root: Path = Path("/dev")) -> tuple[int, ...]:
    """The numbers of this machine's NVIDIA GPUs, by their device nodes."""
    if not root.is_dir():
        return ()
    found = (_NODE.fullmatch(path.name) for path in root.iterdir())
    return tuple(sorted(int(match[1]) for match in found if match))


def gpu_of(device: str) -> int | None:
    """The GPU's number in a device's name such as `cuda:1`; None for the CPU."""
    return int(device.removeprefix("cuda:")) if device.startswith("cuda:") else None


class Devices:
    """The places for heavy work on this machine, each held by one job or engine at a time."""

    def __init__(self, settings: QueueSettings, present: tuple[int, ...] | None = None) -> None:
        found = gpus_present() if present is None else present
        chosen = found if settings.devices == "auto" else settings.devices
        if chosen == "cpu" or not chosen:
            self.places = [CPU] * settings.heavy_slots
        else:
            missing = sorted(set(chosen) - set(found))
            if missing:
                raise InvalidInput(
                    f"this machine has no GPU number {missing[0]}",
                    where="queue.devices",
                    remedy=f"It has {', '.join(map(str, found)) or 'none'}; `auto` takes all there are.",
                )
            self.places = [f"cuda:{number}" for number in chosen]
        self._held: dict[str, int] = {}
        self._waiting: list[str] = []
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        """Places that a job may take: those that are free and that no engine waits for."""
        return max(0, len(self.places) - len(self._held) - len(self._waiting))

    @property
    def waiting(self) -> tuple[str, ...]:
        """The engines that wait for a place."""
        return tuple(self._waiting)

    def holder(self, device: str) -> list[str]:
        held = list(self._held.items())  # at once: figures are read in a thread of their own
        return [holder for holder, place in held if self.places[place] == device]

    def take(self, holder: str) -> str | None:
        """A free place's device, from now on `holder`'s; None where there is none."""
        if holder in self._held:
            return self.places[self._held[holder]]
        taken = set(self._held.values())
        for place, device in enumerate(self.places):
            if place not in taken:
                self._held[holder] = place
                return device
        return None

    def keep(self, holder: str, device: str | None) -> None:
        """What a holder from before a restart has; more holders than places stay until they end."""
        taken = set(self._held.values())
        for place, name in enumerate(self.places):
            if name == (device or CPU) and place not in taken:
                self._held[holder] = place
                return

    def release(self, holder: str) -> None:
        if self._held.pop(holder, None) is not None:
            freed, self._freed = self._freed, asyncio.Event()
            freed.set()

    async def wait(self, holder: str) -> str:
        """A place for an engine: the next that comes free, before any job that waits."""
        self._waiting.append(holder)
        try:
            while (device := self.take(holder)) is None:
                await self._freed.wait()
            return device
        finally:
            self._waiting.remove(holder)

    def shared(self) -> str:
        """A device to share: the one with the fewest holders."""
        return min(dict.fromkeys(self.places), key=lambda device: len(self.holder(device)))
