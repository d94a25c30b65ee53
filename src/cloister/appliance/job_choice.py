"""Which of the waiting jobs start now: whose turn it is, whether there are places, whether there is room.

Light jobs have slots of their own. A heavy one takes all its places on devices at once; while it is next and they are
not free, what comes free is kept for it. Nobody overtakes the one that is next, or it might wait for ever. It looks
at state, devices and machine, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from itertools import islice

import structlog
from sqlalchemy import select

from cloister.api import JobState
from cloister.appliance.devices import FEWER
from cloister.appliance.job_needs import JobNeeds
from cloister.appliance.job_starts import JobStarts
from cloister.appliance.jobs import SHORT, places_of
from cloister.appliance.outlook import last_starts
from cloister.appliance.parts import Parts
from cloister.appliance.room import Need, Room
from cloister.appliance.state import JobRow
from cloister.appliance.turns import in_turn

log = structlog.get_logger()

SMALLER = "Use a smaller base model, or a larger machine."


@dataclass(frozen=True)
class Chosen:
    """A job whose turn has come, and the device that is its own from now on. `never` says why it cannot start on this
    machine at all."""

    job_id: str
    device: str | None = None
    never: str | None = None
    remedy: str = SMALLER


class JobChoice:
    """Of one queue."""

    def __init__(self, parts: Parts, starts: JobStarts, room: Room) -> None:
        self._state = parts.state
        self._light_slots = parts.settings.queue.light_slots
        self._devices = parts.devices
        self._needs = JobNeeds(parts)
        self._starts = starts
        self._room = room
        self._no_room: dict[str, str] = {}
        self.lacking: dict[str, str] = {}
        """What waiting jobs wait for besides their turn."""

    def next(self, known: Set[str]) -> list[Chosen]:
        """What starts now, the first one first. `known` are the jobs that have started and are looked after."""
        with self._state.read() as session:
            queued = session.scalars(select(JobRow).where(JobRow.state == JobState.QUEUED)).all()
            running = [row for job_id in known if (row := session.get(JobRow, job_id)) is not None]
            last_start = last_starts(session)
        put_off = {row.job_id: why for row in queued if (why := self._starts.put_off(row.job_id)) is not None}
        self._no_room = {
            row.job_id: self._no_room[row.job_id] for row in queued if row.job_id in self._no_room
        }
        able = [row for row in queued if row.job_id not in known and row.job_id not in put_off]
        promised = sum((self._needs.left(row) for row in running), Need())
        chosen: list[Chosen] = []

        holders = [row.requested_by for row in running if row.verb in SHORT]
        turns = in_turn((row for row in able if row.verb in SHORT), holders, last_start)
        for row in islice(turns, max(0, self._light_slots - len(holders))):
            if not self._has_room(row, promised, chosen):
                break
            promised += self._needs.of(row)
            chosen.append(Chosen(row.job_id))

        holders = [
            row.requested_by for row in running if row.verb not in SHORT for _ in range(places_of(row))
        ]
        heavy = (row for row in able if row.verb not in SHORT)
        devices, few = self._devices, dict[str, str]()
        kept_for, devices.kept_for = devices.kept_for, None
        for row in in_turn(heavy, holders, last_start, kept_for=kept_for, places=places_of):
            wanted, there_are = places_of(row), len(devices.places)
            if wanted > there_are:
                never = f"needs {wanted} devices at once, and {there_are} may be used"
                chosen.append(Chosen(row.job_id, never=never, remedy=FEWER))
                continue
            taken = devices.held_by_others(known | {one.job_id for one in chosen})
            if 1 < wanted > there_are - taken:
                # Kept for it, what is free would stand idle for as long as the engines run.
                few[row.job_id] = f"{wanted} devices at once: of {there_are}, engines have {taken}"
                continue
            if wanted > devices.free:
                if wanted > 1:
                    devices.kept_for = row.job_id
                    few[row.job_id] = f"{wanted} devices at once: {devices.free} free, and kept for it"
                break
            if not self._has_room(row, promised, chosen):
                break
            promised += self._needs.of(row)
            chosen.append(Chosen(row.job_id, devices.take(row.job_id, wanted)))
        self.lacking = {**self._no_room, **few, **put_off}
        return chosen

    def _has_room(self, row: JobRow, promised: Need, chosen: list[Chosen]) -> bool:
        """Whether memory and disk have room for it now. What could never fit is chosen, to end and say why."""
        need = self._needs.of(row)
        lacks, never = self._room.lacks(need, promised), self._room.never(need)
        if lacks is None:
            self._no_room.pop(row.job_id, None)
            return True
        if never is not None:
            chosen.append(Chosen(row.job_id, never=never))
        elif self._no_room.get(row.job_id) != lacks:
            log.info("job.waits", job=row.job_id, cause=lacks.partition(":")[0])
        self._no_room[row.job_id] = lacks
        return False
