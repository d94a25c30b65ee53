"""Who holds which device: GPUs one by one, or so many places on the CPU. Jobs and engines take from the same ones.

It knows names of devices and of their holders; what they do there it does not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
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
        self._held: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[str]] = {}

    @property
    def free(self) -> int:
        """Places that a job may take; none while an engine waits, which gets the next one at once."""
        return sum(max(0, self._left(device)) for device in set(self.places))

    @property
    def holders(self) -> tuple[str, ...]:
        """Who has a place of its own."""
        return tuple(self._held)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The engines that wait for a place, the next one first."""
        return tuple(self._waiting)

    def holder(self, device: str) -> list[str]:
        held = [
            *self._held.items(),
            *self._shared.items(),
        ]  # at once: figures are read in a thread of their own
        return [holder for holder, name in held if name == device]

    def take(self, holder: str) -> str | None:
        """A free place's device, the least used one, from now on `holder`'s; None where there is none."""
        if holder in self._held:
            return self._held[holder]
        free = [device for device in dict.fromkeys(self.places) if self._left(device) > 0]
        if not free:
            return None
        self._held[holder] = min(free, key=self._users)
        return self._held[holder]

    def keep(self, holder: str, device: str | None, *, shared: bool = False) -> None:
        """What a holder from before a restart has; more holders than places stay until they end."""
        name = device or CPU
        if name in self.places:
            (self._shared if shared else self._held)[holder] = name

    def release(self, holder: str) -> None:
        """What it held goes to the engine that has waited longest, where one does."""
        self._shared.pop(holder, None)
        if self._held.pop(holder, None) is None:
            return
        while self._waiting and self.free:
            first, turn = next(iter(self._waiting.items()))
            del self._waiting[first]
            if not turn.done() and (given := self.take(first)) is not None:
                turn.set_result(given)

    async def wait(
        self, holder: str, make_way: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)
    ) -> str:
        """A place for an engine: the next that comes free, before any job and any engine that comes after it.

        `make_way` is called once the engine is in the line, so that what it frees goes to no job.
        """
        device = self.take(holder)
        if device is not None:
            return device
        turn: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[holder] = turn
        try:
            await make_way()
            return await turn
        except BaseException:
            self._waiting.pop(holder, None)
            self.release(holder)  # it may have been given one in the same moment
            raise

    def share(self, holder: str) -> str:
        """A device to share: the one with the fewest users, of which it is one from now on."""
        self._shared.pop(holder, None)
        self._shared[holder] = min(dict.fromkeys(self.places), key=self._users)
        return self._shared[holder]

    def _left(self, device: str) -> int:
        return self.places.count(device) - list(self._held.values()).count(device)

    def _users(self, device: str) -> int:
        return len(self.holder(device))
