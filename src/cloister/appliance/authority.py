"""The authority as one thing: its parts put together, and what clients may ask of it.

HTTP is not known here (see `http`), and neither is how a part does its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister import __version__
from cloister.api import (
    BackupRequest,
    BaseImport,
    DatasetImport,
    Deployment,
    ForgetRequest,
    GatewayView,
    Job,
    JobTicket,
    LedgerStatus,
    LockRequest,
    MergeRequest,
    ObjectKind,
    ProcessStatus,
    Run,
    RunRequest,
    SandboxState,
    ServeRequest,
    Status,
    StoredObject,
    WhoAmI,
)
from cloister.appliance import records
from cloister.appliance.backups import Backups
from cloister.appliance.ballast import Ballast
from cloister.appliance.catalogue import Catalogue, find, listed, refuse_taken_name
from cloister.appliance.clients import Clients
from cloister.appliance.forgetting import Forgetting
from cloister.appliance.holds import Holds
from cloister.appliance.ids import new_id
from cloister.appliance.lineage import SUCCESSOR
from cloister.appliance.peer import ROLES, Peer
from cloister.appliance.queue import Queue
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal, appliance_id
from cloister.appliance.serving import Serving
from cloister.appliance.shredding import Shredding
from cloister.appliance.side import Delivery, SideSocket
from cloister.appliance.state import JobRow, ObjectRow, RunRow, open_state
from cloister.appliance.store import Change, StateStore
from cloister.appliance.tombstones import refuse_shredded
from cloister.errors import CloisterError, Conflict, NotFound, OutOfSpace, SandboxUnavailable, Unavailable
from cloister.home import Home
from cloister.launcher.client import LauncherClient
from cloister.ledger import Ledger
from cloister.policy import Settings
from cloister.sandbox import available, swap_status

log = structlog.get_logger()


class Authority:
    """Everything that cloisterd decides. One to a home."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self.origin = f"cloister/{appliance_id(home.identity_file)}/control"
        self.ledger = Ledger.open(home.control_ledger, origin=self.origin, signer=None)
        self._engine, sessions = open_state(home.state)
        self.state = StateStore(sessions)
        self.recorder = Recorder(self.ledger, Ballast(home.state.parent / "ballast"))
        self.seal = Seal(home.keys, self.recorder)
        self.launcher = LauncherClient(home.launcher_socket)
        self.catalogue = Catalogue(home.objects, self.state, self.seal, self.recorder)
        self.queue = Queue(
            home,
            settings,
            self.state,
            self.seal,
            self.recorder,
            self.catalogue,
            self.launcher,
            refuse_work=self.refuse_work,
            on_done=self._job_done,
        )
        self.serving = Serving(
            home, settings, self.state, self.seal, self.recorder, self.catalogue, self.launcher
        )
        self.clients = Clients(self.state, self.seal, self.recorder)
        self.shredding = Shredding(
            home, self.state, self.seal, self.recorder, self.catalogue, self.queue, self.serving
        )
        self.holds = Holds(self.state, self.recorder)
        self.forgetting = Forgetting(self.state, self.seal, self.recorder, self.queue, self.shredding)
        self.backups = Backups(
            home, settings, self.state, self.seal, self.recorder, self.catalogue, self.shredding
        )
        self.side = SideSocket(home.side_socket, self._deliver)
        self._no_sandbox = available(swap=False) if settings.sandbox == "required" else None
        self._tasks: list[asyncio.Task[None]] = []
        self._locking = 0

    # --- its life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Adopt what still runs, then take in requests."""
        await self.recorder.record_taking_away(  # an authority must start on a full disk, to revoke and stop
            None,
            "authority.start",
            mode="embedded",
            roles="one account holds all roles",
            sandbox=self.sandbox,
            version=__version__,
        )
        sandboxes = await self._sandboxes()
        await self.queue.recover(sandboxes)
        await self.serving.recover(sandboxes)
        await self._end_unknown(sandboxes)
        await self.backups.recover()
        self.side.start()
        self._tasks = [asyncio.create_task(self.queue.run()), asyncio.create_task(self.shredding.run())]
        with contextlib.suppress(OutOfSpace), self.state.change() as change:
            change.event("authority.started", version=__version__)

    async def stop(self) -> None:
        """Let go of sandboxes, close everything. Work goes on; the next authority adopts it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.side.stop()
        await self.backups.stop()
        await self.shredding.stop()
        await self.queue.stop()
        await self.serving.let_go()
        with contextlib.suppress(CloisterError):
            await self.recorder.record(None, "authority.stop")
        self.seal.close()
        self.ledger.close()
        self._engine.dispose()

    async def _end_unknown(self, sandboxes: dict[str, SandboxState]) -> None:
        """Stop the sandboxes that no job and no deployment asks for any more."""
        for sandbox_id in sandboxes.keys() - {*self.queue.known, *self.serving.live}:
            with contextlib.suppress(CloisterError):
                if sandboxes[sandbox_id].exit_code is None:
                    await self.recorder.record_taking_away(None, "sandbox.stop", sandbox_id)
                    await self.launcher.stop(sandbox_id)
                await self.launcher.forget(sandbox_id)

    async def _sandboxes(self) -> dict[str, SandboxState]:
        """What the launcher runs now, its own start awaited for a moment."""
        for _ in range(50):
            try:
                found = await self.launcher.list()
            except CloisterError:
                await asyncio.sleep(0.1)
                continue
            return {sandbox.sandbox_id: sandbox for sandbox in found}
        return {}

    def refuse_work(self) -> None:
        """Errors: Locked, LedgerUnavailable or SandboxUnavailable where nothing new may start."""
        _ = self.seal.vault
        self.recorder.require()
        if self._no_sandbox is not None:
            raise SandboxUnavailable(self._no_sandbox, remedy="See `cloister doctor`.")
        swap = self._swap()
        if swap is not None and self.settings.unencrypted_swap == "refuse":
            raise SandboxUnavailable(swap, remedy="Turn it off with `swapoff -a`, or encrypt it.")

    async def _refuse_start(self) -> None:
        """`refuse_work`, also without a launcher or while the vault is being locked: a request is told so."""
        self.refuse_work()
        if self._locking:
            raise Conflict("the vault is being locked", remedy="Unlock it afterwards, and ask again.")
        try:
            async with asyncio.timeout(5):
                await self.launcher.ping()
        except TimeoutError:
            raise Unavailable("the launcher does not answer", remedy="See `cloister status`.") from None

    @property
    def sandbox(self) -> str:
        """In a word, how work is isolated, or why it cannot be."""
        return "none" if self.settings.sandbox == "none" else (self._no_sandbox or "bubblewrap")

    @staticmethod
    def _swap() -> str | None:
        areas = swap_status().unencrypted
        if not areas:
            return None
        return f"swap without encryption is on: {', '.join(area.path for area in areas)}"

    async def lock(self, peer: Peer, request: LockRequest) -> None:
        """Close the vault. Errors: Conflict where work runs and `refuse` was asked for."""
        busy = [*self.queue.running, *self.serving.live]
        if busy and request.mode == "refuse":
            raise Conflict(
                f"{len(busy)} jobs or deployments run",
                remedy="Wait for them, or use `--drain` or `--cut` (runs can be resumed).",
            )
        self._locking += 1
        try:
            if request.mode == "cut":
                await self.queue.cut(peer)
            else:
                await self.queue.drain()
            await self.serving.stop_all(peer)
            await self.seal.lock(peer)
        finally:
            self._locking -= 1
            self.queue.paused = self._locking > 0
        with self.state.change() as change:
            change.event("vault.locked")

    # --- asking ----------------------------------------------------------------------------

    def whoami(self, peer: Peer) -> WhoAmI:
        return WhoAmI(account=peer.account, uid=peer.uid, roles=list(ROLES))

    def ledger_status(self) -> LedgerStatus:
        head = self.ledger.head()
        return LedgerStatus(
            origin=self.origin,
            entries=self.ledger.size,
            signed=self.ledger.signed_size,
            root=head.root.hex() if head.root else None,
            failure=self.ledger.failure,
        )

    async def status(self) -> Status:
        warnings = []
        if self.settings.sandbox == "none":
            warnings.append("SANDBOX OFF: work runs without isolation, as the settings say")
        swap = self._swap()
        if swap is not None:
            warnings.append(swap)
        ledger = self.ledger_status()
        if ledger.failure:
            warnings.append(f"the ledger refuses entries: {ledger.failure}")
        if not ledger.witnessed:
            warnings.append("UNWITNESSED: no tree head of the ledger has left this machine yet")
        warnings += self.forgetting.warnings()
        if self.recorder.owed:
            warnings.append(f"{self.recorder.owed} entries about things taken away wait for the ledger")
        gateway, url = self._gateway()
        return Status(
            version=__version__,
            home=str(self.home.root),
            initialised=self.seal.initialised,
            locked=self.seal.locked,
            sandbox=self.sandbox,
            ledger=ledger,
            processes=[
                ProcessStatus(name="authority", state="running"),
                await self._launcher_status(),
                gateway,
            ],
            jobs=self.queue.counts(),
            deployments=self.serving.listed(only_live=True),
            last_seq=self.state.last_seq(),
            gateway_url=url,
            warnings=warnings,
        )

    async def _launcher_status(self) -> ProcessStatus:
        try:
            async with asyncio.timeout(2):
                await self.launcher.ping()
        except (CloisterError, TimeoutError):
            return ProcessStatus(name="launcher", state="stopped", detail="run `cloister up`")
        return ProcessStatus(name="launcher", state="running")

    def _gateway(self) -> tuple[ProcessStatus, str | None]:
        try:
            known = json.loads(self.home.gateway_file.read_text())
            alive = _is_gateway(int(known["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            alive, known = False, {}
        if not alive:
            return ProcessStatus(name="gateway", state="stopped", detail="run `cloister up`"), None
        return ProcessStatus(name="gateway", state="running", pid=known["pid"]), str(known.get("url"))

    def gateway_view(self) -> GatewayView:
        seq = self.state.last_seq()
        return GatewayView(
            seq=seq,
            clients=self.clients.listed(with_hash=True),
            deployments=self.serving.listed(),
        )

    def objects(self, kind: ObjectKind) -> list[StoredObject]:
        with self.state.read() as session:
            return [records.stored_object(row) for row in listed(session, kind)]

    def object(self, kind: ObjectKind, reference: str) -> StoredObject:
        with self.state.read() as session:
            return records.stored_object(find(session, kind, reference))

    def jobs(self) -> list[Job]:
        with self.state.read() as session:
            return [records.job(row) for row in session.scalars(select(JobRow).order_by(JobRow.created_at))]

    def job(self, job_id: str) -> Job:
        with self.state.read() as session:
            row = session.get(JobRow, job_id)
            if row is None:
                raise NotFound(
                    "there is no job of that id", where=job_id[:64], remedy="See `cloister status`."
                )
            return records.job(row)

    def runs(self) -> list[Run]:
        with self.state.read() as session:
            return [
                records.run(session, row)
                for row in session.scalars(select(RunRow).order_by(RunRow.created_at))
            ]

    def run(self, reference: str) -> Run:
        with self.state.read() as session:
            return records.run(session, self._run_row(session, reference))

    # --- starting --------------------------------------------------------------------------

    async def import_dataset(self, peer: Peer, request: DatasetImport) -> JobTicket:
        config = request.config.model_dump()
        unwritten: dict[str, Any] = {}
        if request.config.system_prompt is not None:  # content: the state holds a keyed digest of it
            unwritten["system_prompt"] = config["system_prompt"]
            config["system_prompt"] = self.seal.config_digest({"system_prompt": config["system_prompt"]})
        return await self._import(peer, "import", ObjectKind.DATASET, request.name, config, unwritten)

    async def import_base(self, peer: Peer, request: BaseImport) -> JobTicket:
        return await self._import(
            peer, "base", ObjectKind.BASE, request.name, request.config.model_dump(mode="json")
        )

    async def _import(
        self,
        peer: Peer,
        verb: str,
        kind: ObjectKind,
        name: str,
        config: dict[str, Any],
        unwritten: dict[str, Any] | None = None,
    ) -> JobTicket:
        await self._refuse_start()
        digests = {"config": self.seal.config_digest(config)}
        with self.state.read() as session:
            refuse_taken_name(session, kind, name)
        await self.recorder.record(peer, f"{kind}.import", digests=digests, name=name)
        with self.state.change() as change:
            refuse_taken_name(change.session, kind, name)
            row = self.queue.add(
                change, peer.account, verb, name, config, {}, waits_for_source=True, unwritten=unwritten
            )
            job = records.job(row)
        return JobTicket(
            job=job, token=self.side.issue(job.job_id, peer), side_socket=str(self.home.side_socket)
        )

    async def start_run(self, peer: Peer, request: RunRequest) -> Run:
        """Queue a fine-tuning, frozen as asked for. Errors: NotFound, Conflict, Locked, LedgerUnavailable."""
        await self._refuse_start()
        with self.state.read() as session:
            inputs = {
                "dataset": find(session, ObjectKind.DATASET, request.dataset),
                "base": find(session, ObjectKind.BASE, request.base),
            }
            if request.holdout is not None:
                inputs["holdout"] = find(session, ObjectKind.DATASET, request.holdout)
            _refuse_taken_run(session, request.name)
        run_id = new_id("run")
        config = request.train.model_dump()
        evaluate = request.evaluate.model_dump() if request.evaluate else None
        digests = {"config": self.seal.config_digest(config)}
        if evaluate is not None:
            digests["evaluate"] = self.seal.config_digest(evaluate)
        await self.recorder.record(
            peer,
            "run.start",
            run_id,
            *(row.object_id for row in inputs.values()),
            digests=digests,
            name=request.name,
        )
        with self.state.change() as change:
            _refuse_taken_run(change.session, request.name)
            job = self.queue.add(change, peer.account, "train", request.name, config, inputs)
            change.session.add(
                RunRow(
                    run_id=run_id,
                    name=request.name,
                    dataset=inputs["dataset"].object_id,
                    base=inputs["base"].object_id,
                    holdout=inputs["holdout"].object_id if "holdout" in inputs else None,
                    train=config,
                    evaluate=evaluate,
                    created_at=change.now,
                    created_by=peer.account,
                    train_job=job.job_id,
                )
            )
            change.event("run.started", run_id, name=request.name)
        return self.run(run_id)

    async def resume_run(self, peer: Peer, reference: str) -> Run:
        """Resume whichever job of the run was cut off. Errors: NotFound, Conflict."""
        run = self.run(reference)
        cut = run.evaluate_job or run.train_job
        await self.queue.resume(peer, cut.job_id)
        return self.run(run.run_id)

    async def cancel_run(self, peer: Peer, reference: str) -> Run:
        run = self.run(reference)
        await self.queue.cancel(peer, (run.evaluate_job or run.train_job).job_id)
        return self.run(run.run_id)

    async def merge(self, peer: Peer, request: MergeRequest) -> Job:
        """Queue the merge of a run's adapter. Errors: NotFound, Conflict, Locked, LedgerUnavailable."""
        await self._refuse_start()
        config = request.config.model_dump()
        digests = {"config": self.seal.config_digest(config)}
        with self.state.read() as session:
            refuse_taken_name(session, ObjectKind.MODEL, request.name)
            run = self._run_row(session, request.run)
            if run.adapter is None:
                raise Conflict(
                    "the run has no adapter yet", where=run.name, remedy="Wait for it, or resume it."
                )
            inputs = {
                "dataset": find(session, ObjectKind.DATASET, run.dataset),
                "base": find(session, ObjectKind.BASE, run.base),
                "adapter": find(session, ObjectKind.ADAPTER, run.adapter),
            }
            if run.holdout is not None:
                inputs["holdout"] = find(session, ObjectKind.DATASET, run.holdout)
        await self.recorder.record(
            peer,
            "model.merge",
            run.run_id,
            inputs["adapter"].object_id,
            digests=digests,
            name=request.name,
        )
        with self.state.change() as change:
            refuse_taken_name(change.session, ObjectKind.MODEL, request.name)
            row = self.queue.add(change, peer.account, "merge", request.name, config, inputs)
            return records.job(row)

    async def serve(self, peer: Peer, request: ServeRequest) -> Deployment:
        """Start a deployment. Errors: NotFound, Conflict, Locked, LedgerUnavailable, Unavailable."""
        await self._refuse_start()
        return await self.serving.start(peer, request)

    async def forget(self, peer: Peer, reference: str, request: ForgetRequest) -> Job:
        """Queue a dataset's next version. Errors: NotFound, Conflict, Locked, LedgerUnavailable."""
        await self._refuse_start()
        return await self.forgetting.forget(peer, reference, request)

    async def back_up(self, peer: Peer, request: BackupRequest) -> JobTicket:
        """A backup that waits for the descriptor of its target. Errors: Conflict, LedgerUnavailable."""
        self.recorder.require()
        job = await self.backups.ask(peer, request)
        return JobTicket(
            job=job, token=self.side.issue(job.job_id, peer), side_socket=str(self.home.side_socket)
        )

    def _deliver(self, delivery: Delivery) -> None:
        """Descriptors for whoever looks after their job."""
        taker = self.backups if self.backups.waits_for(delivery.job_id) else self.queue
        taker.deliver(delivery)

    def _job_done(self, change: Change, job: JobRow, stored: ObjectRow) -> None:
        """What follows from a job, in the same commit: a run's adapter, then its evaluation."""
        if job.verb == SUCCESSOR:
            self.forgetting.done(change, job, stored)
            return
        column = RunRow.train_job if job.verb == "train" else RunRow.evaluate_job
        run = change.session.scalars(select(RunRow).where(column == job.job_id)).first()
        if run is None:
            return
        if job.verb == "train":
            run.adapter = stored.object_id
            if run.evaluate is not None:
                inputs = {
                    role: change.session.get_one(ObjectRow, (reference["object_id"], reference["version"]))
                    for role, reference in job.inputs.items()
                }
                inputs["adapter"] = stored
                row = self.queue.add(change, job.requested_by, "evaluate", run.name, run.evaluate, inputs)
                run.evaluate_job = row.job_id
        else:
            run.evaluation = job.result
        change.event("run.updated", run.run_id, name=run.name)

    @staticmethod
    def _run_row(session: Any, reference: str) -> RunRow:
        row: RunRow | None = session.scalars(
            select(RunRow).where((RunRow.run_id == reference) | (RunRow.name == reference))
        ).first()
        if row is None:
            row = session.scalars(
                select(RunRow).where((RunRow.train_job == reference) | (RunRow.evaluate_job == reference))
            ).first()
        if row is None:
            refuse_shredded(session, "run", reference)
            raise NotFound(
                "there is no run of that name or id", where=reference[:64], remedy="See `cloister run list`."
            )
        return row


def _refuse_taken_run(session: Session, name: str) -> None:
    if session.scalars(select(RunRow).where(RunRow.name == name)).first() is not None:
        raise Conflict("a run of that name exists", where=name, remedy="Choose another name.")


def _is_gateway(pid: int) -> bool:
    """Whether that process is a gateway: numbers of processes are used again."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"cloister.gateway" in command or b"cloister-gateway" in command
