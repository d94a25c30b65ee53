"""Deployments: each an engine in a sandbox, probed, restarted with back-off, stopped at any time.

An engine outlives the authority; the next one adopts it. Before one is started it is asked whether the deployment
would still be let through. It never sees a prompt: the gateway talks to the engine's socket itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import (
    Deployment,
    DeploymentState,
    ObjectKind,
    Problem,
    SandboxState,
    ServeConfig,
    ServeRequest,
)
from cloister.appliance import records
from cloister.appliance.approvals import Approvals
from cloister.appliance.catalogue import find
from cloister.appliance.documents import engine_documents, in_memory
from cloister.appliance.draining import answered
from cloister.appliance.engine_starts import EngineStarts, NoLonger, TooLarge
from cloister.appliance.engine_watch import EngineWatch, NeverReady, mark
from cloister.appliance.ids import new_id
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.room import Room
from cloister.appliance.state import LIVE, DeploymentRow, ObjectRow
from cloister.errors import CloisterError, Conflict, NotFound, OutOfSpace
from cloister.launcher.client import NoAnswer
from cloister.logs import place

log = structlog.get_logger()

BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
GRACE_S = 10.0
UNKEPT_S = 5.0
"""The pause before an end that the state could not take is kept again."""


class Serving:
    """Every deployment of this appliance, each with one task that keeps it as it should be."""

    def __init__(
        self,
        parts: Parts,
        approvals: Approvals,
        *,
        make_way: Callable[[], Awaitable[None]],
        room: Room | None = None,
    ) -> None:
        self.starts = EngineStarts(parts, approvals, room or Room(parts.settings.queue, parts.home.root))
        self._watch = EngineWatch(parts, self.starts)
        self._make_way = make_way
        self._parts = parts
        self._approvals = approvals
        self._home = parts.home
        self._settings = parts.settings
        self._state = parts.state
        self._recorder = parts.recorder
        self._launcher = parts.launcher
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, peer: Peer, request: ServeRequest) -> Deployment:
        """Serve a merged model under a name. One that is served so already, and would not come back, has its
        approval renewed.

        Errors: NotFound, Conflict, Denied, ApprovalNeeded, LedgerUnavailable.
        """
        with self._state.read() as session:
            live = _live(session, request.name)
            model = find(session, ObjectKind.MODEL, request.model)
            if live is not None and (live.model, ServeConfig.model_validate(live.config)) != (
                model.object_id,
                request.config,
            ):
                raise _taken(request.name)
        if live is not None:
            return await self._renew(peer, live, request)
        passed = await self._approvals.gate(peer, "deployment.start", request.model_dump(mode="json"))
        with self._state.read() as session:  # nothing came between: this is what the gate froze
            model = find(session, ObjectKind.MODEL, request.model)
        deployment_id = new_id("deployment")
        await self._recorder.record(
            peer, "deployment.start", deployment_id, model.object_id, name=request.name, **passed.told
        )
        with self._state.change() as change:
            passed.spend(change)
            if _live(change.session, request.name) is not None:
                raise _taken(request.name)
            row = DeploymentRow(
                deployment_id=deployment_id,
                name=request.name,
                model=model.object_id,
                state=DeploymentState.STARTING,
                config=request.config.model_dump(),
                created_at=change.now,
                created_by=peer.account,
                asked_by=peer.uid,
                approval=passed.approval_id,
                restarts=0,
                last_event=0,
            )
            change.session.add(row)
            change.event("deployment.state", deployment_id, state=row.state, name=row.name)
            shown = self.document(row)
        self._keep(deployment_id, adopted=False)
        return shown

    async def _renew(self, peer: Peer, live: DeploymentRow, request: ServeRequest) -> Deployment:
        """Let what runs come back under another approval, and as of whoever asks. Errors: those of `start`."""
        with contextlib.suppress(NoLonger):
            passed = await self.starts.still(live.deployment_id)
            if passed.by in (None, live.approval):
                raise _taken(request.name)
        passed = await self._approvals.gate(peer, "deployment.start", request.model_dump(mode="json"))
        await self._recorder.record(
            peer, "deployment.renew", live.deployment_id, live.model, name=live.name, **passed.told
        )
        with self._state.change() as change:
            passed.spend(change)
            row = change.session.get_one(DeploymentRow, live.deployment_id)
            if row.state not in LIVE:
                raise Conflict("it has ended meanwhile", where=row.name, remedy="Give the command again.")
            row.approval, row.asked_by = passed.approval_id, peer.uid
            change.event("deployment.state", row.deployment_id, state=row.state, name=row.name)
            return self.document(row)

    async def stop(self, peer: Peer | None, reference: str, *, drain_s: float = 0) -> Deployment:
        """Stop serving. New requests are refused at once; those in progress have `drain_s` to end.

        Succeeds with a failed ledger. Errors: NotFound.
        """
        with self._state.read() as session:
            row = self._find(session, reference)
        await self._recorder.record_taking_away(
            peer,
            "deployment.stop",
            row.deployment_id,
            row.model,
            alongside=lambda change: mark(change, row.deployment_id, DeploymentState.STOPPING),
            **({"drain_s": drain_s} if drain_s else {}),
        )
        task = self._tasks.get(row.deployment_id)
        if task is not None:  # first of all: it must not start another engine after this one is stopped
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if drain_s:
            await answered(str(self._home.engine_folder(row.deployment_id) / "engine.sock"), drain_s)
        await self._end_engine(row.deployment_id)
        self._parts.devices.release(row.deployment_id)
        shutil.rmtree(self._home.engine_folder(row.deployment_id), ignore_errors=True)
        with contextlib.suppress(CloisterError):
            await self._launcher.forget(row.deployment_id)
        with self._state.read() as session:
            return self.document(session.get_one(DeploymentRow, row.deployment_id))

    async def stop_all(self, peer: Peer) -> None:
        while self._tasks:
            with contextlib.suppress(OutOfSpace):
                await self.stop(peer, next(iter(self._tasks)))

    @property
    def live(self) -> list[str]:
        return sorted(self._tasks)

    def listed(self, *, only_live: bool = False) -> list[Deployment]:
        with self._state.read() as session:
            query = select(DeploymentRow).order_by(DeploymentRow.created_at)
            if only_live:
                query = query.where(DeploymentRow.state.in_((*LIVE, DeploymentState.STOPPING)))
            return [self.document(row) for row in session.scalars(query)]

    def document(self, row: DeploymentRow) -> Deployment:
        socket = self._home.engine_folder(row.deployment_id) / "engine.sock" if row.state in LIVE else None
        return records.deployment(row, str(socket) if socket else None)

    async def recover(self, sandboxes: dict[str, SandboxState]) -> None:
        """After a start: adopt engines that still run, bring back those that do not and still may."""
        with self._state.read() as session:
            rows = session.scalars(select(DeploymentRow)).all()
        for row in rows:
            if row.state in LIVE:
                adopted = row.deployment_id in sandboxes
                if adopted:
                    shared = self._settings.serving.claim == "share"
                    self._parts.devices.keep(row.deployment_id, row.device, shared=shared)
                if not adopted:
                    with contextlib.suppress(OutOfSpace):  # an authority starts on a full disk, too
                        self._set(row.deployment_id, DeploymentState.RESTARTING)
                self._keep(row.deployment_id, adopted=adopted)
            elif row.state == DeploymentState.STOPPING:
                try:
                    await self._end_engine(row.deployment_id)
                except OutOfSpace:
                    self._look_after(row.deployment_id, self._end_later(row.deployment_id))

    async def let_go(self) -> None:
        """End the tasks and leave the engines running, for the next authority to adopt."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _end_engine(self, deployment_id: str) -> None:
        """Stop it, and say so; one that the launcher does not end is `failed`, with what to do."""
        try:
            await self._launcher.stop(deployment_id, GRACE_S)
        except NoAnswer as error:
            self._set(deployment_id, DeploymentState.FAILED, records.problem(error))
            return
        except CloisterError:
            pass  # there is none
        self._set(deployment_id, DeploymentState.STOPPED)

    async def _end_later(self, deployment_id: str) -> None:
        """The end of its engine, once the state takes it."""
        while True:
            await asyncio.sleep(UNKEPT_S)
            with contextlib.suppress(OutOfSpace):
                await self._end_engine(deployment_id)
                return

    def _keep(self, deployment_id: str, *, adopted: bool) -> None:
        self._look_after(deployment_id, self._keep_running(deployment_id, adopted=adopted))

    def _look_after(self, deployment_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[deployment_id] = task
        task.add_done_callback(lambda _: self._ended(deployment_id))

    def _ended(self, deployment_id: str) -> None:
        self._tasks.pop(deployment_id, None)
        self.starts.settled(deployment_id)

    async def _keep_running(self, deployment_id: str, *, adopted: bool) -> None:
        attempt = ended = 0
        while True:
            started = asyncio.get_running_loop().time()
            try:
                if not adopted:
                    await self._parts.seal.opened.wait()
                    await self.starts.still(deployment_id)  # before a run makes way for it
                    self.starts.require_possible(deployment_id)
                    await self._launch(deployment_id, await self._claim(deployment_id))
                adopted = False
                problem = await self._watch.watch(deployment_id)
                ended += 1
                self._watch.require_promise(deployment_id, ended, problem)
            except (NeverReady, TooLarge) as error:
                await self._give_up(deployment_id, error, "deployment.failed", reason=error.code)
                return
            except NoLonger as refused:
                await self._refuse(deployment_id, refused.error)
                return
            except CloisterError as error:
                problem = records.problem(error)
            except Exception as error:
                log.error("deployment.error", deployment=deployment_id, cause=place(error))
                problem = Problem(
                    title="Error",
                    status=500,
                    code="error",
                    detail=f"the authority failed: {type(error).__name__}",
                )
            self.starts.settled(deployment_id)
            if asyncio.get_running_loop().time() - started > 300:
                attempt = 0
            pause = BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]
            attempt += 1
            log.warning("deployment.down", deployment=deployment_id, code=problem.code, restart_in_s=pause)
            with contextlib.suppress(CloisterError):
                await self._recorder.record(None, "deployment.down", deployment_id, reason=problem.code)
            with contextlib.suppress(OutOfSpace):
                self._set(deployment_id, DeploymentState.RESTARTING, problem)
            await asyncio.sleep(pause)

    async def _refuse(self, deployment_id: str, error: CloisterError) -> None:
        """A deployment that may not be started any more ends, and who may can serve it again."""
        with self._state.read() as session:
            row = session.get_one(DeploymentRow, deployment_id)
        await self._give_up(
            deployment_id,
            error,
            "deployment.refused",
            row.model,
            decision="deny",
            reason=error.message,
            code=error.code,
            name=row.name,
        )

    async def _give_up(
        self, deployment_id: str, error: CloisterError, action: str, *objects: str, **told: str
    ) -> None:
        """Leave no engine, and say why: entered as `action`, and kept."""
        log.warning(action, deployment=deployment_id, code=error.code)
        with contextlib.suppress(CloisterError):
            await self._launcher.stop(deployment_id, GRACE_S)
            await self._launcher.forget(deployment_id)
        self._parts.devices.release(deployment_id)
        problem = records.problem(error)
        done = await self._recorder.record_taking_away(
            None,
            action,
            deployment_id,
            *objects,
            alongside=lambda change: mark(change, deployment_id, DeploymentState.FAILED, problem),
            **told,
        )
        if not done:
            self._set(deployment_id, DeploymentState.FAILED, problem)

    async def _claim(self, deployment_id: str) -> str:
        """A device, as the settings say: shared with jobs, or one's own, for which runs make way or are waited for."""
        devices, claim = self._parts.devices, self._settings.serving.claim
        if claim == "share":
            return devices.share(deployment_id)
        device = devices.take(deployment_id)
        if device is None:
            with self._state.change() as change:
                change.event("deployment.waiting", deployment_id, claim=claim)
            waiting = (self._make_way,) if claim == "yield" else ()
            device = await devices.wait(deployment_id, *waiting)
        return device

    async def _launch(self, deployment_id: str, device: str) -> None:
        passed = await self.starts.still(deployment_id)  # it may have waited for its device
        self.starts.require_room(deployment_id, device)
        with self._state.read() as session:
            row = session.get_one(DeploymentRow, deployment_id)
            row.device = device
            model = session.scalars(select(ObjectRow).where(ObjectRow.object_id == row.model)).one()
        document, spec = engine_documents(self._parts, row, model)
        await self._recorder.record(None, "engine.start", deployment_id, model.object_id, **passed.returned)
        with self._state.change() as change:
            passed.recheck(change)
            live = change.session.get_one(DeploymentRow, deployment_id)
            live.last_event, live.device = 0, device
            live.restarts += live.state == DeploymentState.RESTARTING
        memory = in_memory(document)
        try:
            with contextlib.suppress(CloisterError):
                await self._launcher.stop(deployment_id, 0)
                await self._launcher.forget(deployment_id)
            _ = self._parts.seal.vault  # it may have been locked meanwhile
            await self._launcher.start(spec, [memory])
        finally:
            os.close(memory)

    def _set(self, deployment_id: str, state: DeploymentState, problem: Problem | None = None) -> None:
        with self._state.change() as change:
            mark(change, deployment_id, state, problem)

    @staticmethod
    def _find(session: Session, reference: str) -> DeploymentRow:
        rows = session.scalars(
            select(DeploymentRow)
            .where((DeploymentRow.deployment_id == reference) | (DeploymentRow.name == reference))
            .order_by((DeploymentRow.deployment_id == reference).desc(), DeploymentRow.created_at.desc())
        ).all()
        if not rows:
            raise NotFound(
                "there is no deployment of that name or id",
                where=reference[:64],
                remedy="See `cloister serve list`.",
            )
        if rows[0].deployment_id == reference:
            return rows[0]
        return next((row for row in rows if row.state in LIVE), rows[0])


def _live(session: Session, name: str) -> DeploymentRow | None:
    return session.scalars(
        select(DeploymentRow).where(DeploymentRow.name == name, DeploymentRow.state.in_(LIVE))
    ).first()


def _taken(name: str) -> Conflict:
    return Conflict(
        "a deployment of that name is served", where=name, remedy="Stop it, or choose another name."
    )
