"""Who holds which device: GPUs one by one, or so many places on the CPU. Jobs and engines take from the same ones.

Who needs several takes all of them at once or none. It knows names of devices and of their holders; what they do
there it does not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Set
from pathlib import Path

from cloister.errors import InvalidInput
from cloister.policy.settings import QueueSettings

CPU = "cpu"
FEWER = "Ask for fewer with `--devices`, or see `queue.devices` and, on the CPU, `queue.heavy_slots` in the settings."
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


def each_of(device: str | None) -> tuple[str, ...]:
    """The places in what a holder of several has: `cuda:0,cuda:2` is two; no name is a place on the CPU."""
    return tuple((device or CPU).split(","))


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
        self._held: dict[str, tuple[str, ...]] = {}
        self._shared: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self.kept_for: str | None = None
        """The job that comes next and needs more places than are free: what comes free is kept for it."""

    def require(self, count: int) -> None:
        """That so many places may be used at once. Errors: InvalidInput."""
        if count > len(self.places):
            raise InvalidInput(
                f"the run asks for {count} devices at once, and {len(self.places)} may be used",
                where="train.processes",
                remedy=FEWER,
            )

    @property
    def free(self) -> int:
        """Places that a job may take; none while an engine waits, which gets the next one at once."""
        return sum(max(0, self._left(device)) for device in set(self.places))

    @property
    def holders(self) -> tuple[str, ...]:
        """Who has a place of its own."""
        return tuple(self._held)

    def held_by_others(self, jobs: Set[str]) -> int:
        """Places of holders that are none of those jobs, engines that is, and of engines that wait for one."""
        held = sum(len(places) for holder, places in self._held.items() if holder not in jobs)
        return held + len(self._waiting)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The engines that wait for a place, the next one first."""
        return tuple(self._waiting)

    def holder(self, device: str) -> list[str]:
        held = list(self._held.items())  # at once: figures are read in a thread of their own
        shared = list(self._shared.items())
        return [
            *(holder for holder, names in held if device in names),
            *(holder for holder, name in shared if name == device),
        ]

    def take(self, holder: str, count: int = 1) -> str | None:
        """So many free places, the least used devices, from now on `holder`'s; None where there are not so many.

        Several are named with commas between, and come together or not at all.
        """
        if holder in self._held:
            return ",".join(self._held[holder])
        free = [device for device in dict.fromkeys(self.places) for _ in range(max(0, self._left(device)))]
        if len(free) < count:
            return None
        chosen = sorted(free, key=self._users)[:count]
        self._held[holder] = tuple(sorted(chosen, key=self.places.index))
        return ",".join(self._held[holder])

    def keep(self, holder: str, device: str | None, *, shared: bool = False) -> None:
        """What a holder from before a restart has; more holders than places stay until they end."""
        names = tuple(name for name in each_of(device) if name in self.places)
        if names and shared:
            self._shared[holder] = names[0]
        elif names:
            self._held[holder] = names

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
        return self.places.count(device) - sum(names.count(device) for names in list(self._held.values()))

    def _users(self, device: str) -> int:
        return len(self.holder(device))
