"""The appliance in figures, for Prometheus: counts and states; never a name, a client or content.

Read when it is asked for; it keeps nothing and decides nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloister.api import DeploymentState, GpuStatus, JobState
from cloister.appliance.alerts import Alerts
from cloister.appliance.exporting import Exporting
from cloister.appliance.gpus import Gpus
from cloister.appliance.parts import Parts
from cloister.appliance.queue import Queue
from cloister.appliance.serving import Serving


class Figures(Collector):
    """What a scrape sees."""

    def __init__(
        self,
        parts: Parts,
        queue: Queue,
        serving: Serving,
        alerts: Alerts,
        exporting: Exporting,
        gpus: Gpus,
    ) -> None:
        self._gpus = gpus
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
            "jobs", "Jobs by state.", "state", {str(s): 0 for s in JobState} | self._queue.outlook.counts()
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
        yield from self._of_gpus()

    def _of_gpus(self) -> Iterator[Metric]:
        """By device; nothing where there is no GPU, and no figure that its driver does not tell."""
        gpus = self._gpus.listed()
        if gpus or self._gpus.problem is not None:
            answers = float(self._gpus.problem is None)
            yield _gauge("gpu_driver_answers", "1 while the driver of the GPUs does.", answers)
        for name, help_, value in _OF_GPUS:
            told = [(gpu, figure) for gpu in gpus if (figure := value(gpu)) is not None]
            family = GaugeMetricFamily(f"cloister_gpu_{name}", help_, labels=["device"])
            for gpu, figure in told:
                family.add_metric([f"cuda:{gpu.number}"], figure)
            if told:
                yield family
        if self._gpus.counted:
            xids = CounterMetricFamily("cloister_gpu_xids", "Xids by number.", labels=["device", "xid"])
            for (number, xid), count in sorted(self._gpus.counted.items(), key=str):
                xids.add_metric(["unknown" if number is None else f"cuda:{number}", str(xid)], count)
            yield xids


_OF_GPUS: tuple[tuple[str, str, Callable[[GpuStatus], float | None]], ...] = (
    ("memory_used_bytes", "Memory in use.", lambda gpu: gpu.memory_used),
    ("memory_size_bytes", "Memory there is.", lambda gpu: gpu.memory_total),
    ("utilisation_percent", "Time in which something ran.", lambda gpu: gpu.utilisation_percent),
    ("temperature_celsius", "Temperature.", lambda gpu: gpu.temperature_c),
    ("slowdown_celsius", "Temperature at which it slows down.", lambda gpu: gpu.slowdown_c),
    ("power_watts", "Power drawn.", lambda gpu: gpu.power_w),
    ("ecc_corrected", "Memory errors corrected since its last reset.", lambda gpu: gpu.ecc_corrected),
    ("ecc_uncorrected", "Memory errors not corrected since its last reset.", lambda gpu: gpu.ecc_uncorrected),
    ("usable", "1 unless it is lost or has to be reset.", lambda gpu: float(_usable(gpu))),
    ("held", "Jobs and engines that hold it.", lambda gpu: len(gpu.holders)),
)


def _usable(gpu: GpuStatus) -> bool:
    return gpu.problem is None and gpu.recovery in (None, "none")


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"cloister_{name}", help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(f"cloister_{name}", help_, value=value)


def _labelled(name: str, help_: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"cloister_{name}", help_, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
