"""What clients may see: the status, and everything that exists. It changes nothing."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

from sqlalchemy import select

from cloister import __version__
from cloister.api import (
    Curve,
    Environment,
    GatewayView,
    Job,
    JobState,
    LedgerStatus,
    ObjectKind,
    ProcessStatus,
    Run,
    Status,
    StoredObject,
)
from cloister.appliance import records, returning
from cloister.appliance.anchors import Anchors
from cloister.appliance.approval_register import ApprovalRegister
from cloister.appliance.catalogue import find, listed
from cloister.appliance.clients import Clients
from cloister.appliance.curves import points
from cloister.appliance.exporting import Exporting
from cloister.appliance.facts import object_class
from cloister.appliance.fitness import Fitness
from cloister.appliance.forgetting import Forgetting
from cloister.appliance.gpus import Gpus
from cloister.appliance.parts import Parts
from cloister.appliance.policy_sets import PolicySets
from cloister.appliance.queue import Queue
from cloister.appliance.revealing import Revealing
from cloister.appliance.runs import find_run
from cloister.appliance.serving import Serving
from cloister.appliance.state import JobRow, RunRow
from cloister.appliance.store import AsOf
from cloister.appliance.witnessing import Witnessing
from cloister.errors import CloisterError, NotFound
from cloister.modes import read_foreign

NOTED_S = 5.0


class Overview:
    """Reads the parts, as they are at that moment."""

    def __init__(
        self,
        parts: Parts,
        fitness: Fitness,
        queue: Queue,
        serving: Serving,
        clients: Clients,
        exporting: Exporting,
        witnessing: Witnessing,
        anchors: Anchors,
        revealing: Revealing,
        forgetting: Forgetting,
        policy_sets: PolicySets,
        approvals: ApprovalRegister,
        gpus: Gpus,
    ) -> None:
        self._gpus = gpus
        self._policy_sets = policy_sets
        self._noted: tuple[int, float, list[str]] = (-1, 0.0, [])
        self._approvals = approvals
        self._home = parts.home
        self._settings = parts.settings
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._ledger = parts.recorder.ledger
        self._launcher = parts.launcher
        self._fitness = fitness
        self._queue = queue
        self._serving = serving
        self._clients = clients
        self._exporting = exporting
        self._witnessing = witnessing
        self._anchors = anchors
        self._revealing = revealing
        self._forgetting = forgetting
        self._jobs = AsOf(parts.state, queue.outlook.counts)
        self._live = AsOf(parts.state, functools.partial(serving.listed, only_live=True))

    def ledger_status(self) -> LedgerStatus:
        head = self._ledger.head()
        witnesses = self._witnessing.state()
        return LedgerStatus(
            origin=self._ledger.origin,
            entries=self._ledger.size,
            signed=self._ledger.signed_size,
            root=head.root.hex() if head.root else None,
            witnessed=bool(witnesses) and all(one.overdue_since is None for one in witnesses),
            witnesses=witnesses,
            failure=self._ledger.failure,
        )

    def _of_the_state(self) -> list[str]:
        """Warnings about what the state holds, looked for anew when it changed, or after some seconds."""
        mark, at = self._state.changes, time.monotonic()
        if mark != self._noted[0] or at - self._noted[1] > NOTED_S:
            warnings = [
                *self._forgetting.warnings(),
                *self._policy_sets.warnings(),
                *returning.warnings(self._serving.listed()),
            ]
            waiting = self._approvals.waiting()
            if waiting:
                warnings.append(f"{waiting} requests wait for an approver: `cloister approval list`")
            self._noted = (mark, at, warnings)
        return self._noted[2]

    async def status(self) -> Status:
        launcher = asyncio.create_task(self._launcher_status())
        await asyncio.sleep(0)  # it is asked now, and answers while the rest is looked up
        try:
            return await self._status(launcher)
        finally:
            launcher.cancel()

    async def _status(self, launcher: Awaitable[ProcessStatus]) -> Status:
        warnings = []
        if self._settings.sandbox == "none":
            warnings.append("SANDBOX OFF: work runs without isolation, as the settings say")
        swap = self._fitness.swap()
        if swap is not None:
            warnings.append(swap)
        if self._queue.paused:
            warnings.append("LOCKING: nothing new starts, and the vault is locked once nothing runs")
        ledger = self.ledger_status()
        if ledger.failure:
            warnings.append(f"the ledger refuses entries: {ledger.failure}")
        warnings += self._witnessing.warnings(ledger.witnesses)
        if self._anchors.problem:
            warnings.append(self._anchors.problem)
        await self._policy_sets.look()
        warnings += self._of_the_state()
        if self._recorder.owed:
            warnings.append(f"{self._recorder.owed} entries about things taken away wait for the ledger")
        warnings += self._exporting.warnings()
        gateway, url = self._gateway()
        return Status(
            version=__version__,
            home=str(self._home.root),
            initialised=self._seal.initialised,
            locked=self._seal.locked,
            sandbox=self._fitness.sandbox,
            ledger=ledger,
            processes=[
                ProcessStatus(name="authority", state="running"),
                await launcher,
                gateway,
            ],
            jobs=self._jobs(),
            deployments=self._live(),
            last_seq=self._state.last_seq(),
            gateway_url=url,
            warnings=warnings,
            sinks=self._exporting.status(),
            gpus=self._gpus.listed(),
            environment=Environment(name=self._settings.console.name, colour=self._settings.console.colour),
        )

    async def _launcher_status(self) -> ProcessStatus:
        try:
            async with asyncio.timeout(2):
                await self._fitness.ask()
        except (CloisterError, TimeoutError):
            return ProcessStatus(name="launcher", state="stopped", detail="run `cloister up`")
        return ProcessStatus(name="launcher", state="running")

    def _gateway(self) -> tuple[ProcessStatus, str | None]:
        try:
            known = json.loads(read_foreign(self._home.gateway_file, 4096))
            alive = _is_gateway(int(known["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            alive, known = False, {}
        if not alive:
            return ProcessStatus(name="gateway", state="stopped", detail="run `cloister up`"), None
        return ProcessStatus(name="gateway", state="running", pid=known["pid"]), str(known.get("url"))

    def gateway_view(self) -> GatewayView:
        seq = self._state.last_seq()
        return GatewayView(
            seq=seq,
            clients=self._clients.listed(with_hash=True),
            deployments=self._serving.listed(),
            bodies=self._revealing.policy(),
            policy=self._policy_sets.in_force.digest,
            dead_sinks=self._exporting.dead,
        )

    def objects(self, kind: ObjectKind) -> list[StoredObject]:
        with self._state.read() as session:
            return [records.stored_object(row, object_class(session, row)) for row in listed(session, kind)]

    def object(self, kind: ObjectKind, reference: str) -> StoredObject:
        with self._state.read() as session:
            row = find(session, kind, reference)
            return records.stored_object(row, object_class(session, row))

    def jobs(self) -> list[Job]:
        with self._state.read() as session:
            rows = session.scalars(select(JobRow).order_by(JobRow.created_at)).all()
        forecast = self._forecast(rows)
        return [self._told(row, forecast) for row in rows]

    def job(self, job_id: str) -> Job:
        with self._state.read() as session:
            row = session.get(JobRow, job_id)
        if row is None:
            raise NotFound("there is no job of that id", where=job_id[:64], remedy="See `cloister status`.")
        return self._told(row, self._forecast([row]))

    def runs(self) -> list[Run]:
        with self._state.read() as session:
            rows = session.scalars(select(RunRow).order_by(RunRow.created_at)).all()
            return [self._with_forecast(records.run(session, row)) for row in rows]

    def run(self, reference: str) -> Run:
        with self._state.read() as session:
            return self._with_forecast(records.run(session, find_run(session, reference)))

    def curve(self, reference: str, most: int) -> Curve:
        """How a run's training went, at most about `most` points. Errors: NotFound."""
        with self._state.read() as session:
            row = find_run(session, reference)
            found, thinned = points(session, row.train_job, most)
            return Curve(run_id=row.run_id, name=row.name, points=found, thinned=thinned)

    def _forecast(self, rows: Sequence[JobRow]) -> dict[str, tuple[int, float | None]]:
        return self._queue.outlook.forecast() if any(row.state == JobState.QUEUED for row in rows) else {}

    def _told(self, row: JobRow, forecast: dict[str, tuple[int, float | None]]) -> Job:
        return self._expected(records.job(row), forecast)

    def _expected(self, job: Job, forecast: dict[str, tuple[int, float | None]]) -> Job:
        if job.job_id not in forecast:
            return job
        position, starts_in = forecast[job.job_id]
        waits_for = self._queue.lacking.get(job.job_id)
        more = {"position": position, "starts_in_s": starts_in, "waits_for": waits_for}
        return job.model_copy(update=more)

    def _with_forecast(self, run: Run) -> Run:
        jobs = [job for job in (run.train_job, run.evaluate_job) if job is not None]
        if all(job.state != JobState.QUEUED for job in jobs):
            return run
        forecast = self._queue.outlook.forecast()
        measured = run.evaluate_job and self._expected(run.evaluate_job, forecast)
        return run.model_copy(
            update={"train_job": self._expected(run.train_job, forecast), "evaluate_job": measured}
        )


def _is_gateway(pid: int) -> bool:
    """Whether that process is a gateway: numbers of processes are used again."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"cloister.gateway" in command or b"cloister-gateway" in command
