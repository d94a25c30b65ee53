"""What a job of the queue takes of memory and disk, by its verb, base and configuration, and what a started one has
not taken yet.

It estimates by `room`, and decides nothing.
"""

from __future__ import annotations

from cloister.api import JobState
from cloister.appliance.jobs import places_of
from cloister.appliance.parts import Parts
from cloister.appliance.room import IMPORTS, Need, need_of, need_of_import, written_in
from cloister.appliance.state import JobRow, ObjectRow


class JobNeeds:
    """Of the jobs of one home."""

    def __init__(self, parts: Parts) -> None:
        self._home = parts.home
        self._state = parts.state
        self._devices = parts.devices

    def of(self, row: JobRow) -> Need:
        """What it takes when it starts."""
        if row.verb in IMPORTS:
            return need_of_import(row.config)
        return need_of(row.verb, self._base_bytes(row), self._devices.places[0], places_of(row))

    def left(self, row: JobRow) -> Need:
        """What a started job has not taken yet: it has its memory once it says that something is done."""
        done = (row.progress or {}).get("done", 0) if row.last_event else 0
        settled = row.state == JobState.RUNNING and done > 0
        output = self._home.output_folder(row.job_id)
        return self.of(row).left(settled=settled, written=written_in(output))

    def _base_bytes(self, row: JobRow) -> int:
        bases = [row.inputs[role] for role in ("base", "larger") if role in row.inputs]
        with self._state.read() as session:
            found = [session.get(ObjectRow, (base["object_id"], base["version"])) for base in bases]
        return max((stored.sealed_bytes for stored in found if stored is not None), default=0)
