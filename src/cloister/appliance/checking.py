"""`cloister vault check` in the authority: what should be there, and one line after another of what is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable

from sqlalchemy import select

from cloister.api import CheckLine, ObjectKind
from cloister.appliance.catalogue import Catalogue
from cloister.appliance.jobs import made_by
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import MANIFEST_KEY, Seal
from cloister.appliance.state import JobRow, ObjectRow
from cloister.appliance.store import StateStore
from cloister.errors import CloisterError
from cloister.vault import Vault
from cloister.vault.check import Expected, Problem, check_keys, check_object, strays

PROGRESS_BYTES = 256 << 20
"""Bytes after which a line says how far it is."""


class Checking:
    """Checks the whole vault while it is open; changes nothing."""

    def __init__(self, state: StateStore, seal: Seal, recorder: Recorder, catalogue: Catalogue) -> None:
        self._state = state
        self._seal = seal
        self._recorder = recorder
        self._catalogue = catalogue

    async def begin(self, peer: Peer, *, full: bool) -> AsyncIterator[CheckLine]:
        """The lines of a check, the result last. Errors: Locked, Conflict, LedgerUnavailable."""
        vault = self._seal.vault
        await self._recorder.record(peer, "vault.check", full=full)
        return self._lines(vault, peer, full)

    async def _lines(self, vault: Vault, peer: Peer, full: bool) -> AsyncIterator[CheckLine]:
        """The lines as a thread finds them, so that the authority goes on answering."""
        lines: asyncio.Queue[CheckLine | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        left = threading.Event()

        def say(line: CheckLine | None) -> None:
            if left.is_set():
                raise _Left
            loop.call_soon_threadsafe(lines.put_nowait, line)

        def work() -> None:
            with contextlib.suppress(_Left):
                try:
                    self._check(vault, full, say)
                except CloisterError as error:  # it cannot go on, and that is the finding
                    say(CheckLine(event="problem", where=error.where, problem=error.message))
                    say(CheckLine(event="result", problems=1))
                finally:
                    say(None)

        checking = loop.run_in_executor(None, work)
        try:
            while (line := await lines.get()) is not None:
                if line.event == "result":
                    decision = "good" if line.problems == 0 else "damaged"
                    await self._recorder.record_taking_away(
                        peer, "vault.check", decision=decision, problems=line.problems
                    )
                yield line
            await checking
        finally:
            left.set()

    def _check(self, vault: Vault, full: bool, say: Callable[[CheckLine], None]) -> None:
        store, signer = self._catalogue.store, vault.signing_key(MANIFEST_KEY).public_key()
        expected, total = self._expected()
        done = said = problems = 0

        def progress(count: int) -> None:
            nonlocal done, said
            done += count
            if done - said >= PROGRESS_BYTES:
                said = done
                say(CheckLine(event="progress", done=done, total=total))

        def tell(found: Iterable[Problem]) -> None:
            nonlocal problems
            for problem in found:
                problems += 1
                say(CheckLine(event="problem", where=problem.where, problem=problem.what))

        keys, found = check_keys(vault)
        tell(found)
        for one in expected:
            found = check_object(store, vault, one, signer=signer, full=full, progress=progress)
            if found and self._still(one):  # it may have been taken away meanwhile
                tell(found)
        tell(strays(store, vault, self._expected()[0], awaited=self._awaited()))
        say(CheckLine(event="result", objects=len(expected), keys=keys, bytes=done, problems=problems))

    def _expected(self) -> tuple[list[Expected], int]:
        with self._state.read() as session:
            rows = session.scalars(select(ObjectRow).order_by(ObjectRow.created_at)).all()
        expected = [Expected(row.kind, row.object_id, row.version, row.manifest_sha256) for row in rows]
        return expected, sum(row.sealed_bytes for row in rows)

    def _still(self, one: Expected) -> bool:
        with self._state.read() as session:
            return session.get(ObjectRow, (one.object_id, one.version)) is not None

    def _awaited(self) -> set[tuple[str, int]]:
        """What jobs have made keys for without having made the object: they run, or ended early."""
        with self._state.read() as session:
            jobs = session.scalars(select(JobRow)).all()
        made = [(job.subject, *made_by(job)) for job in jobs if job.subject is not None]
        return {(subject, version) for subject, kind, version in made if kind != ObjectKind.BASE}


class _Left(Exception):
    """Nobody listens any more."""
