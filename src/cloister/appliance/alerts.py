"""Alerts: what somebody has to look at, kept from when it is found until it is gone, and told to those who must know.

It keeps, records and tells; what is wrong it learns from `alarming`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import smtplib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import structlog
from sqlalchemy import select

from cloister.api import Alert
from cloister.appliance import mailing
from cloister.appliance.finding import Finding
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.state import AlertRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import CloisterError, Conflict, NotFound, OutOfSpace
from cloister.logs import place
from cloister.policy.settings import MailSettings

log = structlog.get_logger()

EVERY_S = 10.0
HOOK_S = 30.0


@dataclass(frozen=True)
class _Unkept:
    """What was told of an alert and could not be kept, because the state cannot be written just now."""

    what: Literal["raised", "cleared"]
    alert: Alert
    entered: bool


class Alerts:
    """Looks every ten seconds, and keeps what it sees."""

    def __init__(
        self,
        state: StateStore,
        recorder: Recorder,
        look: Callable[[], Awaitable[list[Finding]]],
        hook: str | None = None,
        mail: MailSettings | None = None,
    ) -> None:
        self._mail = mail
        self._state = state
        self._recorder = recorder
        self._look = look
        self._hook = hook
        self._telling: set[asyncio.Task[None]] = set()
        self._unkept: dict[str, _Unkept] = {}

    async def run(self) -> None:
        """For ever. The first look comes once the other processes have had time to start."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.refresh()
            except Exception as error:  # a look that fails must not end all looking
                log.error("alerts.error", cause=place(error))

    async def refresh(self) -> None:
        """Look once: raise what is new, clear what is gone."""
        found = {finding.key[:80]: finding for finding in await self._look()}
        with self._state.read() as session:
            known = {row.key: row for row in session.scalars(select(AlertRow))}
        for key, finding in found.items():
            unkept = self._unkept.get(key)
            if key not in known or (unkept is not None and unkept.what == "cleared"):
                await self._raise(key, finding)
            elif finding.severity == "critical" and known[key].severity != "critical":
                # Whoever acknowledged it has seen less than this: it is told anew, and waits for somebody again.
                await self._raise(key, finding, since=known[key].raised_at)
            elif known[key].cause != finding.cause or known[key].severity != finding.severity:
                with contextlib.suppress(OutOfSpace), self._state.change() as change:
                    row = change.session.get_one(AlertRow, key)
                    row.cause, row.severity = finding.cause, finding.severity
                    row.affects, row.command = finding.affects, finding.command
        for key in (known.keys() | self._unkept.keys()) - found.keys():
            if key in known:
                await self._clear(_alert(known[key]))
            elif self._unkept[key].what == "raised":
                await self._clear(self._unkept[key].alert)
            else:  # told as raised and as cleared, and never kept
                del self._unkept[key]

    def listed(self) -> list[Alert]:
        """Those that last, critical ones first, then the oldest."""
        with self._state.read() as session:
            rows = session.scalars(select(AlertRow).order_by(AlertRow.raised_at)).all()
        return sorted(map(_alert, rows), key=lambda alert: alert.severity != "critical")

    async def acknowledge(self, peer: Peer, key: str) -> Alert:
        """Somebody has seen it. Errors: NotFound, Conflict."""
        self._pending(key)
        await self._recorder.record(peer, "alert.acknowledge", key)
        self._pending(key)
        with self._state.change() as change:
            row = change.session.get_one(AlertRow, key)
            row.acknowledged_at, row.acknowledged_by = change.now, peer.account
            change.event("alert.acknowledged", None, key=key, by=peer.account)
            return _alert(row)

    def _pending(self, key: str) -> None:
        with self._state.read() as session:
            row = session.get(AlertRow, key)
        if row is None:
            raise NotFound("there is no such alert now", where=key[:80], remedy="See `cloister alerts`.")
        if row.acknowledged_by is not None:
            raise Conflict(f"{row.acknowledged_by} has acknowledged it already", where=key)

    async def stop(self) -> None:
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    async def _raise(self, key: str, finding: Finding, since: datetime | None = None) -> None:
        before = self._unkept.get(key)
        if before is not None and before.what == "raised":
            since = before.alert.raised_at
        alert = Alert(
            key=key,
            severity=finding.severity,
            cause=finding.cause,
            affects=finding.affects,
            command=finding.command,
            raised_at=since or self._state.now(),
            acknowledged_at=None,
            acknowledged_by=None,
        )

        def keep(change: Change) -> None:
            change.session.merge(AlertRow(**alert.model_dump()))
            change.event("alert.raised", None, key=key, severity=finding.severity, cause=finding.cause)

        await self._pass_on("raised", alert, keep)

    async def _clear(self, alert: Alert) -> None:
        def keep(change: Change) -> None:
            kept = change.session.get(AlertRow, alert.key)
            if kept is not None:
                change.session.delete(kept)
            change.event("alert.cleared", None, key=alert.key)

        await self._pass_on("cleared", alert, keep)

    async def _pass_on(
        self, what: Literal["raised", "cleared"], alert: Alert, keep: Callable[[Change], None]
    ) -> None:
        """Enter it, keep it, tell it. What cannot be kept is tried again at every look, but told only at the first."""
        before = self._unkept.get(alert.key)
        first = before is None or before.what != what
        if first:
            say = log.warning if what == "raised" else log.info
            say(f"alert.{what}", key=alert.key, severity=alert.severity)
        entered = (before is not None and not first and before.entered) or await self._enter(what, alert)
        try:
            with self._state.change() as change:
                keep(change)
        except OutOfSpace:
            self._unkept[alert.key] = _Unkept(what, alert, entered)
        else:
            self._unkept.pop(alert.key, None)
        if first:
            self._tell(what, alert)

    async def _enter(self, what: str, alert: Alert) -> bool:
        """In the ledger, and from there to its sinks; an alert about the ledger itself cannot be."""
        try:
            await self._recorder.record(
                None,
                f"alert.{what}",
                alert.key,
                reason=alert.cause[:500],
                severity=alert.severity,
                since=alert.raised_at.isoformat(timespec="seconds"),
                affects=alert.affects[:500],
                command=alert.command[:500],
            )
        except CloisterError:
            return False
        return True

    def _tell(self, what: str, alert: Alert) -> None:
        ways: list[Coroutine[Any, Any, None]] = []
        if self._hook is not None:
            ways.append(self._run_hook({"alert": what, **alert.model_dump(mode="json")}))
        if self._mail is not None:
            ways.append(self._send_mail(what, alert, self._mail))
        for way in ways:
            task = asyncio.create_task(way)
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _send_mail(self, what: str, alert: Alert, settings: MailSettings) -> None:
        message = mailing.message_of(what, alert, settings, socket.gethostname())
        try:
            await asyncio.to_thread(mailing.send, message, settings)
        except (OSError, smtplib.SMTPException) as error:
            log.warning("alert.mail", cause=type(error).__name__)

    async def _run_hook(self, document: dict[str, Any]) -> None:
        assert self._hook is not None
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                self._hook,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
            )
            async with asyncio.timeout(HOOK_S):
                await process.communicate(json.dumps(document).encode() + b"\n")
            if process.returncode:
                log.warning("alert.hook", status=process.returncode)
        except (OSError, TimeoutError) as error:
            log.warning("alert.hook", cause=type(error).__name__)
        finally:
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def _alert(row: AlertRow) -> Alert:
    return Alert(
        key=row.key,
        severity="critical" if row.severity == "critical" else "warning",
        cause=row.cause,
        affects=row.affects,
        command=row.command,
        raised_at=row.raised_at,
        acknowledged_at=row.acknowledged_at,
        acknowledged_by=row.acknowledged_by,
    )
