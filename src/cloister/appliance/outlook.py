"""What waits for a heavy place, in the order in which it starts, and when that may be; and how many jobs there are.

It reads the state and the devices, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloister.api import JobState
from cloister.appliance.devices import Devices
from cloister.appliance.forecast import Asked, starts, typical
from cloister.appliance.jobs import SHORT, places_of
from cloister.appliance.state import JobRow
from cloister.appliance.store import StateStore
from cloister.appliance.turns import in_turn


class Outlook:
    """Of one queue. `known` are the jobs that it looks after at the moment of each call."""

    def __init__(self, state: StateStore, devices: Devices, known: Set[str]) -> None:
        self._state = state
        self._devices = devices
        self._known = known

    def order(self) -> list[JobRow]:
        """What waits for a heavy place, the one that starts next first."""
        with self._state.read() as session:
            queued = session.scalars(select(JobRow).where(JobRow.state == JobState.QUEUED)).all()
            last_start = last_starts(session)
            running = [row for job_id in self._known if (row := session.get(JobRow, job_id)) is not None]
        holders = [
            row.requested_by for row in running if row.verb not in SHORT for _ in range(places_of(row))
        ]
        waiting = [row for row in queued if row.verb not in SHORT and row.job_id not in self._known]
        kept_for = self._devices.kept_for
        return list(in_turn(waiting, holders, last_start, kept_for=kept_for, places=places_of))

    def forecast(self) -> dict[str, tuple[int, float | None]]:
        """Position, from 1, and estimated seconds to the start of each job that waits for a heavy place."""
        waiting = self.order()
        if not waiting:
            return {}
        with self._state.read() as session:
            ended = session.scalars(
                select(JobRow)
                .where(JobRow.state == JobState.DONE, JobRow.started_at.is_not(None))
                .order_by(JobRow.ended_at.desc())
                .limit(200)
            ).all()
            running = [session.get_one(JobRow, job_id) for job_id in self._known]
        durations: dict[str, list[float]] = {}
        for row in reversed(ended):
            if row.started_at is not None and row.ended_at is not None:
                durations.setdefault(_kind(row), []).append((row.ended_at - row.started_at).total_seconds())
        remaining = [
            (row.progress or {}).get("remaining_s")
            for row in running
            if row.verb not in SHORT
            for _ in range(places_of(row))
        ]
        engines = self._devices.held_by_others(self._known)
        remaining += [None] * engines  # nobody knows when they end
        asked = [Asked(_kind(row), places_of(row)) for row in waiting]
        estimates = starts(asked, remaining, len(self._devices.places), typical(durations), engines)
        return {
            row.job_id: (number, estimate)
            for number, (row, estimate) in enumerate(zip(waiting, estimates, strict=True), 1)
        }

    def counts(self) -> dict[str, int]:
        with self._state.read() as session:
            query = select(JobRow.state, func.count()).group_by(JobRow.state)
            count = {JobState(state): number for state, number in session.execute(query)}
        return {state: count[state] for state in JobState if state in count}


def _kind(row: JobRow) -> str:
    """Jobs of one kind take about as long."""
    places = places_of(row)
    return row.verb if places == 1 else f"{row.verb} on {places}"


def last_starts(session: Session) -> dict[str, datetime]:
    """When a job of each account last started."""
    starts = session.execute(
        select(JobRow.requested_by, func.max(JobRow.started_at))
        .where(JobRow.started_at.is_not(None))
        .group_by(JobRow.requested_by)
    )
    return {account: started for account, started in starts if started is not None}
