"""The appliance in figures, for Prometheus: counts and states; never a name, a client or content.

Read when it is asked for; it keeps nothing and decides nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloister.api import DeploymentState, JobState
from cloister.appliance.alerts import Alerts
from cloister.appliance.exporting import Exporting
from cloister.appliance.parts import Parts
from cloister.appliance.queue import Queue
from cloister.appliance.serving import Serving


class Figures(Collector):
    """What a scrape sees."""

    def __init__(
        self, parts: Parts, queue: Queue, serving: Serving, alerts: Alerts, exporting: Exporting
    ) -> None:
        self._parts = parts
        self._queue = queue
        self._serving = serving
        self._alerts = alerts
        self._exporting = exporting
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        parts = self._parts
        ledger = parts.recorder.ledger
        free = shutil.disk_usage(parts.home.root)
        yield _gauge("vault_open", "1 while the vault is open.", float(not parts.seal.locked))
        yield _labelled(
            "jobs", "Jobs by state.", "state", {str(s): 0 for s in JobState} | self._queue.counts()
        )
        deployments = Counter(str(one.state) for one in self._serving.listed())
        yield _labelled(
            "deployments",
            "Deployments by state.",
            "state",
            {str(state): 0 for state in DeploymentState} | dict(deployments),
        )
        restarts = sum(one.restarts for one in self._serving.listed())
        yield _counter("engine_restarts", "Restarts of the engines of all deployments.", restarts)
        alerts = Counter(alert.severity for alert in self._alerts.listed())
        yield _labelled(
            "alerts", "Alerts that last.", "severity", {"critical": 0, "warning": 0} | dict(alerts)
        )
        yield _counter("ledger_entries", "Entries of the control ledger.", ledger.size)
        yield _gauge(
            "ledger_unsigned", "Entries that no tree head covers yet.", ledger.size - ledger.signed_size
        )
        yield _gauge(
            "ledger_refuses", "1 while the ledger takes no entries.", float(ledger.failure is not None)
        )
        yield _gauge("ledger_owed", "Entries about things taken away that wait for it.", parts.recorder.owed)
        sinks = self._exporting.status()
        yield _gauge(
            "sinks_down",
            "Sinks of the ledgers that do not take entries.",
            sum(s.down_s is not None for s in sinks),
        )
        yield _gauge(
            "sinks_behind", "Entries that wait for a sink, all together.", sum(s.behind for s in sinks)
        )
        yield _gauge("disk_free_bytes", "Free space on the disk of the home.", free.free)
        yield _gauge("disk_size_bytes", "Size of the disk of the home.", free.total)
        yield _counter("events", "Events of the stream so far.", parts.state.last_seq())


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"cloister_{name}", help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(f"cloister_{name}", help_, value=value)


def _labelled(name: str, help_: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"cloister_{name}", help_, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
