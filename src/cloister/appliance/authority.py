"""The authority as one thing: its parts put together, its life, and its locking.

HTTP is not known here (see `http`), and neither is how a part does its work.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import structlog

from cloister import __version__
from cloister.api import Deployment, LockRequest, SandboxState, ServeRequest
from cloister.appliance.alarming import Alarming
from cloister.appliance.alerts import Alerts
from cloister.appliance.anchors import Anchors
from cloister.appliance.approval_decisions import ApprovalDecisions
from cloister.appliance.approval_register import ApprovalRegister
from cloister.appliance.approval_worth import ApprovalWorth
from cloister.appliance.approvals import Approvals
from cloister.appliance.auditing import Auditing
from cloister.appliance.backups import Backups
from cloister.appliance.ballast import Ballast
from cloister.appliance.body_shredding import BodyShredding
from cloister.appliance.catalogue import Catalogue
from cloister.appliance.checking import Checking
from cloister.appliance.classifying import Classifying
from cloister.appliance.clients import Clients
from cloister.appliance.deriving import Deriving
from cloister.appliance.devices import Devices
from cloister.appliance.evaluations import Evaluations
from cloister.appliance.exporting import Exporting
from cloister.appliance.facts import facts_of
from cloister.appliance.figures import Figures
from cloister.appliance.fitness import Fitness
from cloister.appliance.forgetting import Forgetting
from cloister.appliance.freezing import (
    freeze_declassify,
    freeze_deployment,
    freeze_export,
    freeze_run,
    freeze_shred,
)
from cloister.appliance.gpu_alarms import GpuAlarms
from cloister.appliance.gpus import Gpus
from cloister.appliance.guard import Guard
from cloister.appliance.holds import Holds
from cloister.appliance.jobs import DRY_RUN, ERRORS, EXPORT
from cloister.appliance.kept_bodies import KeptBodies
from cloister.appliance.leftovers import Leftovers
from cloister.appliance.lineage import SUCCESSOR
from cloister.appliance.looking import RENDER, ROWS, Looking
from cloister.appliance.model_exports import ModelExports
from cloister.appliance.outdated import Outdated
from cloister.appliance.overview import Overview
from cloister.appliance.owed import Owed
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.personal_data import REPORT
from cloister.appliance.policy_sets import PolicySets
from cloister.appliance.priorities import Priorities
from cloister.appliance.queue import Queue
from cloister.appliance.recorder import Recorder
from cloister.appliance.requests import Requests
from cloister.appliance.revealing import Revealing
from cloister.appliance.rotation import Rotation
from cloister.appliance.run_plans import RunPlans
from cloister.appliance.runs import after_job
from cloister.appliance.seal import Seal, appliance_id
from cloister.appliance.serving import Serving
from cloister.appliance.shredding import Shredding
from cloister.appliance.side import Delivery, SideSocket
from cloister.appliance.slots import Slots, credentials_folder
from cloister.appliance.state import JobRow, ObjectRow, open_state
from cloister.appliance.store import Change, StateStore
from cloister.appliance.witnessing import Witnessing
from cloister.errors import CloisterError, Conflict, OutOfSpace, Unavailable
from cloister.home import Home
from cloister.launcher.client import LauncherClient, NoAnswer
from cloister.ledger import Ledger
from cloister.policy import Settings
from cloister.policy.things import Facts

log = structlog.get_logger()


def socket_mode(settings: Settings) -> int:
    """Who may connect: with roles every account, and the policies decide; else the appliance's own alone."""
    return 0o666 if settings.access.roles else 0o600


class Authority:
    """Everything that cloisterd decides. One to a home."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        identity = appliance_id(home.identity_file)
        self.origin = f"cloister/{identity}/control"
        self.ledger = Ledger.open(home.control_ledger, origin=self.origin, signer=None)
        self.auditing = Auditing(home, self.ledger, f"cloister/{identity}/gateway")
        self.exporting = Exporting(settings.ledger.sinks, home.export_cursors, self.auditing)
        self._engine, sessions = open_state(home.state)
        self.state = StateStore(sessions)
        access = settings.access
        self.policy_sets = PolicySets(self.state, access)
        policies = self.policy_sets.in_force
        self.recorder = Recorder(
            self.ledger,
            Ballast(home.state.parent / "ballast"),
            Owed(self.state),
            policy=policies.digest,
        )
        self.guard = Guard(policies, access, self.recorder, self._facts)
        self.approval_register = ApprovalRegister(self.state, self.recorder)
        allowed = settings.approvals.allowed_signers
        signers = Path(allowed) if allowed else home.allowed_signers
        self.approvals = Approvals(
            self.state,
            self.recorder,
            self.guard,
            settings.approvals,
            self.approval_register,
            ApprovalWorth(self.state, self.guard, signers),
            appliance=identity,
            freezers={
                "run.start": freeze_run,
                "deployment.start": freeze_deployment,
                "model.export": freeze_export,
                "shred.start": freeze_shred,
                "dataset.declassify": freeze_declassify,
                "policy.change": self.policy_sets.freeze,
            },
        )
        self.approval_decisions = ApprovalDecisions(
            self.state,
            self.recorder,
            self.guard,
            settings.approvals,
            self.approval_register,
            changed=self.approvals.changed,
            allowed_signers=signers,
        )
        self.policy_sets.attach(self.guard, self.recorder, self.approvals, self.approval_register)
        self.classifying = Classifying(self.state, self.recorder, self.approvals)
        self.witnessing = Witnessing(home, settings.ledger, self.recorder)
        self.anchors = Anchors(home, self.recorder)
        self.seal = Seal(home.keys, self.recorder)
        self.launcher = LauncherClient(home.launcher_socket, answer_s=settings.queue.answer_limit_s)
        self.catalogue = Catalogue(home.objects, self.state, self.seal, self.recorder)
        self.fitness = Fitness(settings, self.seal, self.recorder, self.exporting, self.launcher)
        self.devices = Devices(settings.queue)
        self.gpus = Gpus(self.devices, settings.alerts, self.state.now)
        parts = Parts(
            home,
            settings,
            self.state,
            self.seal,
            self.recorder,
            self.catalogue,
            self.launcher,
            self.devices,
        )
        self.queue = Queue(parts, refuse_work=self.fitness.require, on_done=self._after_job)
        self.priorities = Priorities(parts)
        self.serving = Serving(parts, self.approvals, make_way=self.queue.make_way)
        self.clients = Clients(self.state, self.seal, self.recorder)
        bodies = KeptBodies(home, self.auditing)
        self.shredding = Shredding(parts, self.queue, self.serving, bodies, self.approvals)
        self.body_shredding = BodyShredding(parts, bodies)
        self.holds = Holds(self.state, self.recorder)
        self.forgetting = Forgetting(
            parts, self.queue, self.shredding, self.approvals, refuse_start=self._refuse_start
        )
        self.side = SideSocket(home.side_socket, self._deliver, mode=socket_mode(settings))
        self.backups = Backups(parts, self.shredding, self.side)
        self.revealing = Revealing(parts, self.auditing, bodies, self.side)
        self.requests = Requests(
            parts, self.queue, self.side, self.approvals, self.guard, refuse_start=self._refuse_start
        )
        self.queue.gate_resume = self.requests.gate_resume
        self.queue.starts.gate = self.requests.gate_start
        self.queue.completions[DRY_RUN] = self.requests.complete_dry_run
        self.model_exports = ModelExports(
            parts, self.queue, self.side, self.approvals, refuse_start=self._refuse_start
        )
        self.queue.completions[EXPORT] = self.model_exports.complete
        self.evaluations = Evaluations(parts, self.queue, self.side, refuse_start=self._refuse_start)
        self.queue.completions[ERRORS] = self.evaluations.shown
        self.looking = Looking(parts, self.queue, self.side, refuse_start=self._refuse_start)
        for verb in (REPORT, ROWS, RENDER):
            self.queue.completions[verb] = self.looking.complete
        self.deriving = Deriving(parts, self.queue, self.side, refuse_start=self._refuse_start)
        self.slots = Slots(
            self.seal,
            self.recorder,
            modules=settings.vault.pkcs11_modules,
            credentials=credentials_folder(),
        )
        self.rotation = Rotation(parts, self.queue, refuse_start=self._refuse_start)
        self.queue.completions["rotate"] = self.rotation.complete
        self.checking = Checking(self.state, self.seal, self.recorder, self.catalogue)
        self.run_plans = RunPlans(parts, self.gpus)
        self.overview = Overview(
            parts,
            self.fitness,
            self.queue,
            self.serving,
            self.clients,
            self.exporting,
            self.witnessing,
            self.anchors,
            self.revealing,
            self.forgetting,
            self.policy_sets,
            self.approval_register,
            self.gpus,
        )
        self._alarming = Alarming(
            parts,
            self.fitness,
            self.serving,
            self.exporting,
            self.witnessing,
            self.anchors,
            self.auditing,
            self.forgetting,
            GpuAlarms(self.gpus, self.state),
        )
        self.alerts = Alerts(
            self.state, self.recorder, self._alarming.look, settings.alerts.hook, settings.alerts.mail
        )
        self.figures = Figures(parts, self.queue, self.serving, self.alerts, self.exporting, self.gpus)
        self._tasks: list[asyncio.Task[None]] = []
        self._locking = 0

    # --- its life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Enter what the ledger is owed, adopt what still runs, then take in requests."""
        await self.recorder.enter_owed()
        with contextlib.suppress(CloisterError):
            await self.fitness.ask()
        await self.recorder.record_taking_away(  # an authority must start on a full disk, to revoke and stop
            None,
            "authority.start",
            mode="service" if self.home.is_service else "embedded",
            roles=", ".join(self.settings.access.roles) or "one account holds all roles",
            sandbox=self.fitness.sandbox,
            version=__version__,
        )
        await self.policy_sets.begin(self.recorder)
        sandboxes = await self._sandboxes()
        await self.queue.recover(sandboxes)
        await self.serving.recover(sandboxes)
        await self._end_unknown(sandboxes)
        await self.backups.recover()
        if await self.slots.unlock_at_start():
            with contextlib.suppress(OutOfSpace), self.state.change() as change:
                change.event("vault.unlocked")
        self.side.start()
        self.auditing.start()
        self.exporting.start()
        self._tasks = [
            asyncio.create_task(self.queue.run()),
            asyncio.create_task(self.shredding.run()),
            asyncio.create_task(self.anchors.run()),
            asyncio.create_task(self.recorder.keep_mending()),
            asyncio.create_task(self.alerts.run()),
            asyncio.create_task(self.fitness.ask_until_answered()),
            asyncio.create_task(self.gpus.run()),
            asyncio.create_task(Leftovers(self.state).run()),
            asyncio.create_task(Outdated(self.state, self.approval_register, self.approvals.changed).run()),
            asyncio.create_task(self.exporting.tell_of_heads(self.witnessing)),
            asyncio.create_task(self.exporting.tell_of_dead(self.state)),
        ]
        with contextlib.suppress(OutOfSpace), self.state.change() as change:
            change.event("authority.started", version=__version__)

    async def stop(self) -> None:
        """Let go of sandboxes, close everything. Work goes on; the next authority adopts it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.alerts.stop()
        await self.side.stop()
        await self.revealing.stop()
        await self.backups.stop()
        await self.shredding.stop()
        await self.queue.stop()
        await self.serving.let_go()
        with contextlib.suppress(CloisterError, OSError):
            await self.anchors.step()
        with contextlib.suppress(CloisterError):
            await self.recorder.record(None, "authority.stop")
        self.seal.close()
        await asyncio.to_thread(self.exporting.stop)
        await self.auditing.stop()
        self.ledger.close()
        self._engine.dispose()

    def _facts(self, kind: str, reference: str) -> Facts:
        with self.state.read() as session:
            return facts_of(session, kind, reference)

    def _deliver(self, delivery: Delivery) -> None:
        """Descriptors go to whoever looks after their job."""
        if self.backups.waits_for(delivery.job_id):
            self.backups.deliver(delivery)
        elif self.revealing.waits_for(delivery.job_id):
            self.revealing.deliver(delivery)
        else:
            self.queue.deliver(delivery)

    def _after_job(self, change: Change, job: JobRow, stored: ObjectRow) -> None:
        """What follows from a job, in the commit that ends it."""
        if job.verb == SUCCESSOR:
            self.forgetting.done(change, job, stored)
        else:
            after_job(change, job, stored)

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
            except NoAnswer:
                break
            except CloisterError:
                await asyncio.sleep(0.1)
                continue
            return {sandbox.sandbox_id: sandbox for sandbox in found}
        return {}

    async def _refuse_start(self) -> None:
        """`Fitness.require`, also without a launcher or while the vault is being locked: a request is told so."""
        self.fitness.require_record()
        if self._locking:
            raise Conflict("the vault is being locked", remedy="Unlock it afterwards, and ask again.")
        try:
            async with asyncio.timeout(5):
                await self.fitness.ask()
        except TimeoutError:
            raise Unavailable("the launcher does not answer", remedy="See `cloister status`.") from None
        self.fitness.require()

    async def lock(self, peer: Peer, request: LockRequest) -> None:
        """Close the vault. Errors: Conflict where work runs and `refuse` was asked for."""
        busy = [*self.queue.running, *self.serving.live]
        if busy and request.mode == "refuse":
            raise Conflict(
                f"{len(busy)} jobs or deployments run",
                remedy="Wait for them, or drain (`--drain`) or cut them (`--cut`; runs can be resumed).",
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

    async def flush_ledger(self) -> None:
        """Anchor the gateway's head, then sign every entry. Errors: LedgerUnavailable."""
        with contextlib.suppress(CloisterError, OSError):
            await self.anchors.step()
        await asyncio.to_thread(self.ledger.flush)

    # --- starting ----------------------------------------------------------------------------

    async def serve(self, peer: Peer, request: ServeRequest) -> Deployment:
        """Start a deployment. Errors: NotFound, Conflict, Locked, LedgerUnavailable, Unavailable."""
        await self._refuse_start()
        return await self.serving.start(peer, request)
