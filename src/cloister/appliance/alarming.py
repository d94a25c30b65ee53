"""What somebody has to look at now: each thing that can be wrong, asked of the part that knows it.

It finds and tells nothing; `alerts` keeps what is found.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

from sqlalchemy import func, select

from cloister.api import DeploymentState, JobState
from cloister.appliance import returning
from cloister.appliance.anchors import Anchors
from cloister.appliance.auditing import Auditing
from cloister.appliance.engine_starts import serve_again
from cloister.appliance.expiring import Expiring
from cloister.appliance.exporting import Exporting
from cloister.appliance.finding import NEW_WORK, Finding, look_at
from cloister.appliance.fitness import Fitness
from cloister.appliance.forgetting import Forgetting
from cloister.appliance.gpu_alarms import GpuAlarms
from cloister.appliance.parts import Parts
from cloister.appliance.serving import Serving
from cloister.appliance.state import BackupRow, JobRow, ObjectRow
from cloister.appliance.witnessing import Witnessing
from cloister.errors import CloisterError
from cloister.ledger.query import Query

DIVERGES = 2.0
"""A training loss above this many times the lowest so far, and one nat more, goes the wrong way."""


class Alarming:
    """Asks every part. Kept between two looks: what running jobs said last, and their lowest losses."""

    def __init__(
        self,
        parts: Parts,
        fitness: Fitness,
        serving: Serving,
        exporting: Exporting,
        witnessing: Witnessing,
        anchors: Anchors,
        auditing: Auditing,
        forgetting: Forgetting,
        gpus: GpuAlarms,
    ) -> None:
        self._gpus = gpus
        self._parts = parts
        self._limits = parts.settings.alerts
        self._expiring = Expiring(parts)
        self._fitness = fitness
        self._serving = serving
        self._exporting = exporting
        self._witnessing = witnessing
        self._anchors = anchors
        self._auditing = auditing
        self._forgetting = forgetting
        self._said: dict[str, tuple[int, float]] = {}
        self._lowest: dict[str, float] = {}

    async def look(self) -> list[Finding]:
        """Everything that is wrong at this moment."""
        found = [*self._machine(), *self._ledger(), *self._work(), *self._gpus.look()]
        found += [finding async for finding in self._processes()]
        found += await asyncio.to_thread(lambda: [*self._disk(), *self._expiring.look(), *self._attempts()])
        return found

    def _machine(self) -> Iterator[Finding]:
        if self._parts.settings.sandbox == "none":
            yield Finding(
                "sandbox-off",
                "critical",
                "work runs without a sandbox, as the settings say",
                "all data that jobs read",
                "set `sandbox: required` in appliance.yaml and restart the authority",
            )
        elif self._fitness.sandbox != "bubblewrap":
            yield Finding("sandbox", "critical", self._fitness.sandbox, NEW_WORK, "cloister doctor")
        swap = self._fitness.swap()
        if swap is not None:
            refused = self._parts.settings.unencrypted_swap == "refuse"
            yield Finding(
                "swap", "critical", swap, NEW_WORK if refused else "all data that jobs read", "swapoff -a"
            )

    def _ledger(self) -> Iterator[Finding]:
        failure = self._parts.recorder.ledger.failure
        if failure is not None:
            yield Finding(
                "ledger", "critical", f"the ledger refuses entries: {failure}", NEW_WORK, "cloister doctor"
            )
        if self._anchors.problem is not None:
            yield Finding(
                "anchor",
                "critical",
                self._anchors.problem,
                "the proof of what clients asked",
                "cloister audit verify",
            )
        for state in self._witnessing.state():
            if state.overdue_since is not None:
                yield Finding(
                    f"unwitnessed:{state.ledger}",
                    "warning",
                    f"no head of the {state.ledger} ledger has left since {state.overdue_since:%Y-%m-%d %H:%M} UTC",
                    "whoever must prove later that nothing was rolled back",
                    state.command,
                )
        for sink in self._exporting.status():
            if sink.problem is not None or sink.down_s is not None:
                yield Finding(
                    f"sink:{sink.name}",
                    "critical" if sink.required else "warning",
                    f"the audit sink {sink.name}: {sink.problem or 'takes nothing'}",
                    NEW_WORK if sink.required else "who reads the ledger elsewhere",
                    "cloister status",
                )
        for said in self._forgetting.warnings():
            yield Finding(
                "forgetting", "warning", said, "the persons who asked to be forgotten", "cloister status"
            )

    async def _processes(self) -> AsyncIterator[Finding]:
        try:
            async with asyncio.timeout(5):
                await self._fitness.ask()
        except (CloisterError, TimeoutError):
            service = self._parts.home.is_service
            command = "cloister up"
            if service:
                command = (
                    "systemctl start cloister-launcher; where it runs and hangs, a restart of it ends what runs, and "
                    "runs go on from their checkpoints"
                )
            yield Finding("launcher", "critical", "the launcher does not answer", NEW_WORK, command)
        newest = {deployment.name: deployment for deployment in self._serving.listed()}
        for (
            name,
            deployment,
        ) in newest.items():  # one that failed has its end where another is served in its place
            why = deployment.error.detail if deployment.error else None
            if deployment.state == DeploymentState.RESTARTING:
                yield Finding(
                    f"engine:{deployment.deployment_id}",
                    "critical",
                    f"the engine of {name} is down and restarting, {deployment.restarts} times so far"
                    + (f": {why}" if why else ""),
                    f"clients of {name}",
                    f"cloister serve list; it is tried again by itself, until `cloister serve stop {name}`",
                )
        for failed in returning.failed(self._serving.listed()):
            why = failed.error.detail if failed.error else "it did not start"
            refused = failed.error is not None and failed.error.code in returning.REFUSED
            again = serve_again(failed.model, failed.name, failed.config)
            if (
                failed.error is not None and "ended" in failed.error.values
            ):  # time and again: something is lacking
                again = f"cloister doctor; then {again}"
            yield Finding(
                f"engine:{failed.deployment_id}",
                "critical",
                f"the deployment {failed.name} failed: {why}",
                f"clients of {failed.name}",
                again
                if refused
                else f"{again}, or `cloister serve stop {failed.name}` where it is not wanted any more",
            )
        for served, error in await returning.doubtful(
            self._serving.listed(only_live=True), self._serving.starts
        ):
            yield Finding(
                f"return:{served.deployment_id}",
                "warning",
                f"{served.name} is served, and would not come back after a restart: {error.message}",
                f"clients of {served.name}",
                serve_again(served.model, served.name, served.config),
            )

    def _work(self) -> Iterator[Finding]:
        """Running jobs that say nothing, or whose loss goes the wrong way; and no backup of what there is."""
        now = time.monotonic()
        with self._parts.state.read() as session:
            running = session.scalars(select(JobRow).where(JobRow.state == JobState.RUNNING)).all()
            stored = session.scalar(select(func.min(ObjectRow.created_at)))
            backup = session.scalar(select(func.max(BackupRow.made_at)))
        known = {row.job_id for row in running}
        self._said = {job_id: said for job_id, said in self._said.items() if job_id in known}
        self._lowest = {job_id: loss for job_id, loss in self._lowest.items() if job_id in known}
        for row in running:
            number, at = self._said.get(row.job_id, (-1, now))
            if number != row.last_event:
                self._said[row.job_id] = (row.last_event, now)
            elif now - at >= self._limits.stalled_s:
                yield Finding(
                    f"stalled:{row.job_id}",
                    "warning",
                    f"{row.verb} {row.name} has said nothing for {(now - at) / 60:.0f} minutes",
                    row.requested_by,
                    look_at(row),
                )
            loss = row.metrics.get("loss")
            if isinstance(loss, float | int):
                lowest = self._lowest[row.job_id] = min(
                    float(loss), self._lowest.get(row.job_id, float(loss))
                )
                if loss > max(DIVERGES * lowest, lowest + 1):
                    yield Finding(
                        f"diverging:{row.job_id}",
                        "warning",
                        f"the loss of {row.name} is {loss:.3g} and was {lowest:.3g}",
                        row.requested_by,
                        look_at(row),
                    )
        late = timedelta(days=self._limits.backup_days)
        if late and stored is not None and self._parts.state.now() - (backup or stored) > late:
            when = f"since {backup:%Y-%m-%d}" if backup else "at all"
            yield Finding(
                "backup",
                "warning",
                f"no backup was made {when}",
                "everything, should this disk fail",
                "cloister backup make FOLDER",
            )

    def _disk(self) -> Iterator[Finding]:
        free = shutil.disk_usage(self._parts.home.root).free / (1 << 30)
        if free < self._limits.disk_low_gib:
            yield Finding(
                "disk",
                "critical",
                f"{free:.1f} GiB are free on the disk of the home",
                NEW_WORK,
                "cloister dataset list, and shred what nobody needs",
            )

    def _attempts(self) -> Iterator[Finding]:
        since = self._parts.state.now() - timedelta(hours=1)
        query = Query(None, "vault.unlock", None, since, None, None)
        found = self._auditing.search("control", query, 1000)
        refused = [entry for entry in found.entries if entry.decision == "refused"]
        if len(refused) >= self._limits.unlock_attempts:
            who = ", ".join(sorted({entry.actor for entry in refused}))
            yield Finding(
                "unlock-attempts",
                "critical",
                f"{len(refused)} attempts to unlock were refused within an hour, by {who}",
                "the keys of all data",
                "cloister audit search --action vault.unlock --since 1h",
            )
