"""Watching one engine: what it says goes into the stream of events, and its probe tells whether it answers.

It starts none, and does not decide what comes after an end.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from cloister.api import DeploymentState, Failure, Notice, Problem, Progress
from cloister.appliance.engine_lines import MAX_CHARACTERS, EngineLines
from cloister.appliance.engine_starts import EngineStarts
from cloister.appliance.parts import Parts
from cloister.appliance.state import DeploymentRow
from cloister.appliance.store import Change
from cloister.appliance.worker_events import parse_event, problem_of
from cloister.errors import CloisterError, OutOfSpace, Unavailable

PROBE_EVERY_S = 5.0
PROBE_TIMEOUT_S = 5.0
PROBES_FAILED = 3
STARTS = 3
"""An engine that has ended so often, and has never answered, would go on to end: it is given up."""


class NeverReady(Unavailable):
    """An engine that has not answered in the time that it has for its start, or ends time and again before."""


class EngineWatch:
    """Watches engines, one call each."""

    def __init__(self, parts: Parts, starts: EngineStarts) -> None:
        self._home = parts.home
        self._settings = parts.settings
        self._state = parts.state
        self._launcher = parts.launcher
        self._starts = starts

    async def watch(self, deployment_id: str) -> Problem:
        """Until the engine ends or stops answering; says why."""
        prober = asyncio.create_task(self._probe(deployment_id))
        listener = asyncio.create_task(self._listen(deployment_id))
        try:
            done, _ = await asyncio.wait((prober, listener), return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in (prober, listener):
                task.cancel()
            await asyncio.gather(prober, listener, return_exceptions=True)

    def require_promise(self, deployment_id: str, ended: int, problem: Problem) -> None:
        """Errors: NeverReady where its engine has `ended` time and again, now of that, and has not answered once."""
        with self._state.read() as session:
            answered_once = session.get_one(DeploymentRow, deployment_id).ready_at is not None
        if ended >= STARTS and not answered_once:
            raise NeverReady(
                f"the engine has ended {ended} times and never answered: {problem.detail.rstrip('.')}",
                where=deployment_id,
                remedy="Run `cloister doctor`, which says what this machine lacks, and see whether memory and device "
                "suit the model. Then serve it again.",
                values={"ended": ended},
            )

    async def _listen(self, deployment_id: str) -> Problem:
        with self._state.read() as session:
            after = session.get_one(DeploymentRow, deployment_id).last_event
        failure: Failure | None = None
        lines = EngineLines()
        async for event in self._launcher.follow(deployment_id, after):
            if event.exit_code is not None:
                if failure is not None:
                    return problem_of(failure, 503)
                return Problem(
                    title="Unavailable",
                    status=503,
                    code="unavailable",
                    detail=f"the engine ended (exit {event.exit_code})",
                )
            said = parse_event(event.line or "")
            if isinstance(said, Failure):
                failure = said
            if isinstance(said, Progress):
                self._tell(deployment_id, event.number, said)
            elif isinstance(said, Notice) and (held_back := lines.passes()) is not None:
                said = said.model_copy(update={"message": said.message[:MAX_CHARACTERS]})
                self._tell(deployment_id, event.number, said, held_back=held_back)
        raise Unavailable("the launcher stopped, and the engine with it")

    def _tell(self, deployment_id: str, number: int, said: Progress | Notice, **more: int) -> None:
        """Put what an engine said into the stream of events."""
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            change.session.get_one(DeploymentRow, deployment_id).last_event = number
            change.event(
                f"deployment.{said.event}", deployment_id, **said.model_dump(exclude={"event"}), **more
            )

    async def _probe(self, deployment_id: str) -> Problem:
        """Ask the engine's health, set `ready` when it answers, end when it no longer does.

        Errors: NeverReady.
        """
        limit_s = self._settings.serving.start_limit_s
        end = asyncio.get_running_loop().time() + limit_s
        path = str(self._home.engine_folder(deployment_id) / "engine.sock")
        failed, was_ready = 0, False
        while failed < PROBES_FAILED:
            if await healthy(path):
                failed = 0
                if not was_ready:
                    with contextlib.suppress(OutOfSpace):  # asked again: a full disk is no reason to end it
                        with self._state.change() as change:
                            mark(change, deployment_id, DeploymentState.READY)
                        was_ready = True
                        self._starts.settled(deployment_id)
            elif was_ready:
                failed += 1
            elif asyncio.get_running_loop().time() > end:
                raise NeverReady(
                    f"the engine did not answer within {limit_s:g} s of its start",
                    where=deployment_id,
                    remedy="See whether memory and device suit the model; a slow start may have more time by "
                    "`serving.start_limit_s` in the settings. Then serve it again.",
                )
            await asyncio.sleep(PROBE_EVERY_S if was_ready else 0.3)
        with contextlib.suppress(CloisterError):
            await self._launcher.stop(deployment_id, 0)
        return Problem(
            title="Unavailable",
            status=503,
            code="unavailable",
            detail="the engine no longer answers its probe",
        )


def mark(change: Change, deployment_id: str, state: DeploymentState, problem: Problem | None = None) -> None:
    row = change.session.get_one(DeploymentRow, deployment_id)
    row.state, row.error = state, problem.model_dump() if problem else None
    if state == DeploymentState.READY:
        row.ready_at = row.ready_at or change.now
    change.event("deployment.state", deployment_id, state=state, name=row.name)


async def healthy(path: str) -> bool:
    """GET /health over a Unix socket."""
    writer: Any = None
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /health HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            return line.startswith(b"HTTP/1.1 200")
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
