"""Backups while the appliance works: asked for, followed, entered, listed; and a restore entered afterwards.

The target is a folder that the client opened; the authority knows it by its descriptor. Each backup is entered
before and after, and known to the state before its key archive exists. How it is copied is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import pwd
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select

from cloister.api import Backup, BackupRequest, JobState, JobTicket, Problem, Progress
from cloister.appliance import records
from cloister.appliance.backup_copy import Asked, Copy, Made, Throttled
from cloister.appliance.ids import new_id
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.shredding import Shredding
from cloister.appliance.side import Delivery, SideSocket
from cloister.appliance.state import BackupRow, JobRow
from cloister.errors import (
    CloisterError,
    Conflict,
    Denied,
    Interrupted,
    InvalidInput,
    LedgerUnavailable,
    NotFound,
    OutOfSpace,
)
from cloister.logs import place
from cloister.vault import age

log = structlog.get_logger()

VERB = "backup"
TRIES = 5
PROGRESS_S = 0.5
RESTORED = "restored.json"
"""What a restore leaves beside the state, for the authority to enter at its next start."""


class Backups:
    """Makes backups, one at a time, and knows which were made."""

    def __init__(
        self,
        parts: Parts,
        shredding: Shredding,
        side: SideSocket,
    ) -> None:
        self._parts = parts
        self._home = parts.home
        self._settings = parts.settings.backups
        self._state = parts.state
        self._seal = parts.seal
        self._recorder = parts.recorder
        self._shredding = shredding
        self._side = side
        self._asked: dict[str, Asked] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # --- asked for by clients ------------------------------------------------------------

    async def ask(self, peer: Peer, request: BackupRequest) -> JobTicket:
        """A backup that waits for the descriptor of its target. Errors: InvalidInput, Conflict, LedgerUnavailable."""
        self._recorder.require()
        _ = self._seal.any_vault
        texts = request.recipients or (() if request.passphrase is not None else self._settings.recipients)
        recipients = age.parse_recipients(texts)
        if bool(recipients) == (request.passphrase is not None):
            raise InvalidInput(
                "nobody is named who could open the key archive",
                remedy="Give a recipient (`--recipient age1…`) or a passphrase, or name recipients in the settings.",
            )
        self._forget_ended()
        if self._asked:
            raise Conflict("a backup is being made already", remedy="Wait for its end.")
        with self._state.change() as change:
            row = JobRow(
                job_id=new_id("job"),
                verb=VERB,
                state=JobState.WAITING_SOURCE,
                name=VERB,
                config={"quick": request.quick, "recipients": len(recipients)},
                inputs={},
                requested_by=peer.account,
                created_at=change.now,
                output_version=1,
                attempts=0,
                resume=False,
                last_event=0,
                metrics={},
                result={},
            )
            change.session.add(row)
            change.session.flush()
            change.event("job.state", row.job_id, state=row.state, verb=VERB, name=VERB)
        self._asked[row.job_id] = Asked(peer, request, recipients, threading.Event())
        return JobTicket(
            job=records.job(row),
            token=self._side.issue(row.job_id, peer),
            side_socket=str(self._home.side_socket),
        )

    def waits_for(self, job_id: str) -> bool:
        return job_id in self._asked

    def deliver(self, delivery: Delivery) -> None:
        """The target of a backup. Errors: InvalidInput, Denied, Conflict."""
        asked = self._asked[delivery.job_id]
        if not {"objects"} <= set(delivery.descriptors) <= {"objects", "keys"}:
            raise InvalidInput("a backup takes a folder for `objects`, and perhaps one for `keys`")
        for descriptor in delivery.descriptors.values():
            self._check_folder(descriptor, asked.peer)
        with self._state.change() as change:
            row = change.session.get_one(JobRow, delivery.job_id)
            if row.state != JobState.WAITING_SOURCE:
                raise Conflict(f"the job is {row.state} and takes no target", where=row.job_id)
            row.state, row.started_at, row.attempts = JobState.RUNNING, change.now, 1
            change.event("job.state", row.job_id, state=row.state, verb=VERB, name=VERB)
        task = self._tasks[delivery.job_id] = asyncio.create_task(self._guarded(delivery, asked))
        task.add_done_callback(lambda _: delivery.close())

    def listed(self) -> list[Backup]:
        with self._state.read() as session:
            return [
                records.backup(row) for row in session.scalars(select(BackupRow).order_by(BackupRow.made_at))
            ]

    async def discard(self, peer: Peer, backup_id: str) -> Backup:
        """Note that a backup's key archive was destroyed: it opens nothing any more. Errors: NotFound, Conflict."""
        with self._state.read() as session:
            row = session.get(BackupRow, backup_id)
        if row is None:
            raise NotFound(
                "there is no backup of that id", where=backup_id[:64], remedy="See `cloister backup list`."
            )
        if row.discarded_at is None:
            await self._recorder.record(peer, "backup.discard", backup_id)
            with self._state.change() as change:
                row = change.session.get_one(BackupRow, backup_id)
                row.discarded_at = change.now
                change.event("backup.discarded", backup_id)
        return records.backup(row)

    # --- its life --------------------------------------------------------------------------

    async def recover(self) -> None:
        """After a start: enter that this home was restored, if it was."""
        with self._state.read() as session:
            made = session.scalars(select(JobRow.job_id).where(JobRow.verb == VERB)).all()
        for job_id in made:  # what one that was cut off copied on the way
            shutil.rmtree(self._home.output_folder(job_id).parent, ignore_errors=True)
        path = self._home.state.parent / RESTORED
        try:
            told = json.loads(path.read_text())
        except FileNotFoundError:
            return
        except ValueError:
            told = {}
        row = told.pop("row", None)
        with contextlib.suppress(LedgerUnavailable, OutOfSpace):
            await self._recorder.record(None, "appliance.restored", *told.pop("objects", []), **told)
            with self._state.change() as change:
                if row and change.session.get(BackupRow, row["backup_id"]) is None:
                    times = {name: datetime.fromisoformat(row[name]) for name in ("made_at", "keys_until")}
                    change.session.add(BackupRow(**{**row, **times}))
                change.event("appliance.restored", row["backup_id"] if row else None)
            path.unlink()

    async def stop(self) -> None:
        """Cut off what is being made, and wait for its threads; nothing half-made stays."""
        for asked in self._asked.values():
            asked.stopped.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _forget_ended(self) -> None:
        with self._state.read() as session:
            for job_id in list(self._asked):
                if job_id not in self._tasks and session.get_one(JobRow, job_id).state not in (
                    JobState.WAITING_SOURCE,
                    JobState.RUNNING,
                ):
                    del self._asked[job_id]

    def _check_folder(self, descriptor: int, peer: Peer) -> None:
        """A folder of the caller's own, or of the service's, outside this home: the authority writes there itself."""
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidInput("the target of a backup is a folder")
        if peer.uid not in (0, status.st_uid) and status.st_uid != os.geteuid():
            raise Denied(
                "the target of a backup belongs to whoever asks for it, or to the service",
                remedy="Name a folder of yours.",
            )
        if status.st_uid != os.geteuid() and os.geteuid() != 0:
            raise Denied(
                "the service writes a backup itself, and this folder is not its own",
                remedy=f"Have one made for it: install -d -o {_own_account()} -g GROUP -m 750 FOLDER.",
            )
        real = Path(f"/proc/self/fd/{descriptor}").readlink()
        if real == self._home.root or self._home.root.resolve() in (real, *real.parents):
            raise InvalidInput(
                "a backup inside the appliance's home is none", remedy="Name a folder elsewhere."
            )

    # --- one backup --------------------------------------------------------------------------

    async def _guarded(self, delivery: Delivery, asked: Asked) -> None:
        job_id = delivery.job_id
        try:
            async with self._shredding.alone:
                self._shredding.copying = True
                try:
                    await self._make(delivery, asked)
                finally:
                    self._shredding.copying = False
        except CloisterError as error:
            shown = _shown(error, delivery, asked.request.where)
            log.warning("backup.failed", code=error.code)
            with contextlib.suppress(CloisterError):
                await self._recorder.record(None, "backup.failed", job_id, reason=error.code)
            self._end(job_id, JobState.FAILED, records.problem(shown))
        except Exception as error:
            log.error("backup.error", cause=place(error))
            failed = CloisterError("the authority failed; its log says where", where=job_id)
            self._end(job_id, JobState.FAILED, records.problem(failed))
        finally:
            self._asked.pop(job_id, None)
            self._tasks.pop(job_id, None)

    async def _make(self, delivery: Delivery, asked: Asked) -> None:
        backup_id, peer = new_id("backup"), asked.peer
        await self._recorder.record(
            peer,
            "backup.make",
            backup_id,
            decision="intended",
            quick=asked.request.quick,
            job=delivery.job_id,
        )
        until = timedelta(days=self._settings.keep_keys_days)
        loop = asyncio.get_running_loop()

        def progress(stage: str, done: int, total: int) -> None:
            if asked.stopped.is_set():
                raise Interrupted("the backup was stopped; what was copied is used by the next one")
            loop.call_soon_threadsafe(self._progress, delivery.job_id, asked, stage, done, total)

        def remember(made_at: datetime) -> None:
            """Before there is a key archive: a shred that comes after it must know of it."""
            with self._state.change() as change:
                change.session.add(
                    BackupRow(
                        backup_id=backup_id,
                        made_at=made_at,
                        made_by=peer.account,
                        where=asked.request.where,
                        keys_until=made_at + until,
                        packs=0,
                        copied=0,
                        copied_bytes=0,
                        objects_sha256="",
                        keys_sha256="",
                        ledger_entries=0,
                    )
                )

        job = Copy(self._parts)
        try:
            copy = functools.partial(
                job.make, backup_id, delivery, asked, Throttled(progress), remember, until
            )
            made = await _to_its_end(asked, copy)
        except CloisterError:
            with contextlib.suppress(OutOfSpace), self._state.change() as change:
                if (row := change.session.get(BackupRow, backup_id)) is not None:
                    change.session.delete(row)
            raise
        await self._recorder.record(
            peer,
            "backup.made",
            backup_id,
            digests={"objects": made.objects.sha256, "keys": made.keys.sha256},
            decision="done",
            packs=made.packs,
            copied=made.copied,
            entries=made.entries,
        )
        with self._state.change() as change:
            row = change.session.get_one(BackupRow, backup_id)
            row.packs, row.copied, row.copied_bytes = made.packs, made.copied, made.copied_bytes
            row.objects_sha256, row.keys_sha256 = made.objects.sha256, made.keys.sha256
            row.ledger_entries = made.entries
            result = records.backup(row).model_dump(mode="json")
            change.event("backup.made", backup_id)
        self._end(delivery.job_id, JobState.DONE, None, result)

    def _progress(self, job_id: str, asked: Asked, stage: str, done: int, total: int) -> None:
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            row = change.session.get_one(JobRow, job_id)
            if row.state != JobState.RUNNING:
                asked.stopped.set()
                return
            row.progress = Progress(stage=stage, done=done, total=total).model_dump()
            change.event("job.progress", job_id, stage=stage, done=done, total=total)

    def _end(
        self, job_id: str, final: JobState, problem: Problem | None, result: dict[str, Any] | None = None
    ) -> None:
        with contextlib.suppress(OutOfSpace), self._state.change() as change:
            row = change.session.get_one(JobRow, job_id)
            if row.state == JobState.RUNNING:
                row.state, row.ended_at = final, change.now
                row.error = problem.model_dump() if problem else None
                row.result = result or {}
            change.event("job.state", job_id, state=row.state, verb=VERB, name=VERB)


async def _to_its_end(asked: Asked, copy: Callable[[], Made]) -> Made:
    """Have a thread write to a delivery's descriptors: whoever is cancelled meanwhile stops it, and waits for it."""
    thread = asyncio.get_running_loop().run_in_executor(None, copy)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        asked.stopped.set()
        await asyncio.wait([thread])
        thread.exception()  # whether anybody asks for it or not
        raise


def _shown(error: CloisterError, delivery: Delivery, where: str) -> CloisterError:
    """The same error with the target called as whoever asked called it."""
    for role, descriptor in delivery.descriptors.items():
        folder = f"/proc/self/fd/{descriptor}"
        if error.where and error.where.startswith(folder):
            error.where = (
                f"{where if role == 'objects' else 'the folder of the keys'}{error.where[len(folder) :]}"
            )
    return error


def _own_account() -> str:
    """The account that the service runs under, as `install -o` takes it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
