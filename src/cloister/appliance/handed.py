"""What was handed over for jobs that wait, in memory only: descriptors, and settings that are content."""

from __future__ import annotations

from typing import Any

from cloister.appliance.side import Delivery


class Handed:
    """One delivery and one set of unwritten settings a job, until it takes them or ends."""

    def __init__(self) -> None:
        self._deliveries: dict[str, Delivery] = {}
        self._unwritten: dict[str, dict[str, Any]] = {}

    def deliver(self, delivery: Delivery) -> None:
        self._deliveries[delivery.job_id] = delivery

    def keep_unwritten(self, job_id: str, settings: dict[str, Any]) -> None:
        self._unwritten[job_id] = settings

    def take_delivery(self, job_id: str) -> Delivery | None:
        """Now the caller's to close."""
        return self._deliveries.pop(job_id, None)

    def take_unwritten(self, job_id: str) -> dict[str, Any]:
        return self._unwritten.pop(job_id, {})

    def drop(self, job_id: str) -> None:
        """The job has ended."""
        self._unwritten.pop(job_id, None)
        delivery = self._deliveries.pop(job_id, None)
        if delivery is not None:
            delivery.close()

    def close(self) -> None:
        for delivery in self._deliveries.values():
            delivery.close()
        self._deliveries.clear()
