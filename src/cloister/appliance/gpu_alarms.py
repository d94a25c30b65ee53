"""What is wrong with a GPU, in words: the cause, whom it affects, and what is safe to do next.

It reads `gpus` and the state, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from cloister.api import GpuStatus
from cloister.appliance.finding import Finding, look_at
from cloister.appliance.gpus import Gpus, XidSeen
from cloister.appliance.state import DeploymentRow, JobRow
from cloister.appliance.store import StateStore
from cloister.appliance.xids import known

FREE = "`cloister lock --drain`, `cloister down`"
PROBLEMS = {
    "lost": "is lost to the driver",
    "reset-required": "cannot be used until it is reset",
    "unreadable": "cannot be read",
}
RECOVERIES = {
    "gpu-reset": "that it has to be reset",
    "bus-reset": "that it has to be reset",
    "drain-and-reset": "that it has to be freed and reset",
    "drain-p2p": "that its links have to be freed",
    "recover-imex-domain": "that its links to other machines have to be set up again",
    "node-reboot": "that this machine has to be restarted",
    "system-reboot": "that this machine has to be restarted",
}
REBOOTS = ("node-reboot", "system-reboot")


class GpuAlarms:
    """Looks at the GPUs as they were read last."""

    def __init__(self, gpus: Gpus, state: StateStore) -> None:
        self._gpus = gpus
        self._state = state

    def look(self) -> Iterator[Finding]:
        """Everything that is wrong with them at this moment."""
        gpus = self._gpus.listed()
        if self._gpus.problem is not None:
            held = [holder for gpu in gpus for holder in gpu.holders]
            yield Finding(
                "gpu.driver",
                "critical",
                f"nothing is known of the GPUs: {self._gpus.problem}",
                self._whom(held, "all work on GPUs"),
                "nvidia-smi; where it hangs too, restart the machine",
            )
        indices = {gpu.number: gpu.index for gpu in gpus}
        for gpu in gpus:
            yield from self._of(gpu)
        for seen in self._gpus.xids():
            yield self._xid(seen, indices.get(-1 if seen.gpu is None else seen.gpu, seen.gpu))

    def _of(self, gpu: GpuStatus) -> Iterator[Finding]:
        name = f"GPU {gpu.number}"
        whom = self._whom(gpu.holders, f"work on {name}, which nobody holds now")
        if gpu.problem in PROBLEMS:
            reboot = gpu.problem == "lost"
            yield Finding(
                f"gpu.{gpu.number}.lost",
                "critical",
                f"{name} {PROBLEMS[gpu.problem]}",
                whom,
                "nvidia-smi -q" if gpu.problem == "unreadable" else repair(gpu.index, reboot),
            )
        if gpu.recovery in RECOVERIES:
            yield Finding(
                f"gpu.{gpu.number}.recovery",
                "critical",
                f"the driver says of {name} {RECOVERIES[gpu.recovery]}",
                whom,
                repair(gpu.index, gpu.recovery in REBOOTS),
            )
        yield from self._memory(gpu, name, whom)
        if self._gpus.hot(gpu.number):
            at = "?" if gpu.temperature_c is None else gpu.temperature_c
            limit = "unknown" if gpu.slowdown_c is None else f"at {gpu.slowdown_c} °C"
            over = None not in (gpu.temperature_c, gpu.slowdown_c) and at >= gpu.slowdown_c  # type: ignore[operator]
            yield Finding(
                f"gpu.{gpu.number}.heat",
                "critical" if over else "warning",
                f"{name} is too hot: {at} °C (it slows down {limit})",
                whom,
                "look at fans and air; `cloister run pause RUN` or `cloister serve stop NAME` takes its load away",
            )

    def _memory(self, gpu: GpuStatus, name: str, whom: str) -> Iterator[Finding]:
        severity: Literal["critical", "warning"] = "critical"
        if gpu.repair_failed:
            cause = "has faulty memory and no spare memory left for it: the card has to be replaced"
        elif gpu.ecc_uncorrected:
            cause = (
                f"had {gpu.ecc_uncorrected} memory errors that could not be corrected since its last reset"
            )
        elif gpu.repair_pending:
            severity, cause = "warning", "replaces faulty memory by spare memory at its next reset"
        else:
            return
        yield Finding(f"gpu.{gpu.number}.ecc", severity, f"{name} {cause}", whom, repair(gpu.index))

    def _xid(self, seen: XidSeen, index: int | None) -> Finding:
        xid = known(seen.xid)
        name = "a GPU" if seen.gpu is None else f"GPU {seen.gpu}"
        often = "" if seen.times == 1 else f", {seen.times} times, the last"
        nobody = f"work on {name}, which nobody held then"
        severity: Literal["critical", "warning"] = "warning"
        if xid.remedy == "job":
            told = "; the GPU is well"
            command = "`nvidia-smi` shows what else uses the GPU"
            if seen.holders:
                command = self._look_at(seen.holders[0])
        elif xid.remedy == "unknown":
            told, command = "", "nvidia-smi -q"
        else:
            severity = "warning" if xid.remedy == "free" else "critical"
            told, command = "", repair(index, xid.remedy == "reboot")
        return Finding(
            f"gpu.{'x' if seen.gpu is None else seen.gpu}.xid.{seen.xid}",
            severity,
            f"{name} reported Xid {seen.xid}{often} at {seen.last:%Y-%m-%d %H:%M} UTC: {xid.meaning}{told}",
            self._whom(seen.holders, nobody),
            command,
        )

    def _look_at(self, holder: str) -> str:
        with self._state.read() as session:
            job = session.get(JobRow, holder)
        return "cloister serve list" if job is None else look_at(job)

    def _whom(self, holders: Iterable[str], nobody: str) -> str:
        named = []
        with self._state.read() as session:
            for holder in dict.fromkeys(holders):
                job, deployment = session.get(JobRow, holder), session.get(DeploymentRow, holder)
                if job is not None:
                    named.append(f"{job.verb} {job.name} of {job.requested_by}")
                elif deployment is not None:
                    named.append(f"clients of {deployment.name}")
        return ", ".join(named) or nobody


def repair(index: int | None, reboot: bool = False) -> str:
    """How a GPU is reset: nothing may use it, this appliance's own reader included."""
    if reboot:
        return f"{FREE}, then restart the machine; where it comes again, have the card looked at"
    which = "N" if index is None else index
    return f"{FREE}, as root `nvidia-smi --gpu-reset -i {which}`, then `cloister up`"
