"""Shredding kept bodies: one, or all of the days before one; never what a legal hold keeps.

Bodies lie by day, all deployments' together; the gateway's entries say which model each was for, and one that no
entry commits to was for none. All that is asked for goes, or nothing does.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import date
from typing import NoReturn

from sqlalchemy import select

from cloister.api import ObjectKind, ShredBodiesRequest, ShredBodiesResult
from cloister.appliance.holds import hold_document, words_of
from cloister.appliance.kept_bodies import KeptBodies
from cloister.appliance.lineage import SERVED, held, holds_on_object
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.state import DeploymentRow, ObjectRow
from cloister.errors import Conflict
from cloister.vault.body_store import BodyStore


class BodyShredding:
    """One home's bodies, destroyed on request."""

    def __init__(self, parts: Parts, bodies: KeptBodies) -> None:
        self._home = parts.home
        self._settings = parts.settings.ledger.bodies
        self._state = parts.state
        self._recorder = parts.recorder
        self._bodies = bodies

    async def shred(self, peer: Peer, request: ShredBodiesRequest) -> ShredBodiesResult:
        """Destroy one body, or those of all days before one, after the entry that says so.

        Errors: NotFound, Conflict where a legal hold keeps one of them, LedgerUnavailable, OutOfSpace.
        """
        one: bytes | None = None
        about: dict[str, str | int] = {}
        digests: dict[str, str] = {}
        if request.body is not None:
            part, commitment = await asyncio.to_thread(self._bodies.committed, request.body)
            await asyncio.to_thread(self._bodies.fetch, commitment)
            one, digests = commitment, {part: commitment.hex()}
            about = {"ledger": request.body.ledger, "index": request.body.index}
        elif request.before is not None:
            about = {"before": request.before.isoformat()}
        await self._require_free(one, request.before)
        moment = self._state.now().isoformat(timespec="seconds")
        index = await self._recorder.record(peer, "audit.shred-bodies", digests=digests, **about)
        try:
            await self._require_free(one, request.before)  # a hold may have been placed meanwhile
        except Conflict as error:
            await self._recorder.record(
                peer, "audit.shred-bodies", digests=digests, decision="abandoned", reason=error.code, **about
            )
            raise
        note = f"by {peer.account} at {moment}, entry {index}"
        shredded, left = await asyncio.to_thread(self._destroy, note, one, request.before)
        await self._recorder.record(
            peer, "audit.bodies-shredded", digests=digests, bodies=shredded, left=left, **about
        )
        return ShredBodiesResult(shredded=shredded, left=left, entry=index)

    def _destroy(self, note: str, one: bytes | None, before: date | None) -> tuple[int, int]:
        """How many went, and how many are left."""
        with closing(BodyStore(self._home.bodies)) as store:
            day = before.isoformat() if before is not None else None
            return store.shred(note, commitment=one, before=day), store.count()

    # --- legal holds -----------------------------------------------------------------------------

    async def _require_free(self, one: bytes | None, before: date | None) -> None:
        """Errors: Conflict where a hold keeps one of them. None that was placed while it looked is overlooked."""
        looked: set[str] | None = None
        while looked != (models := self._held_models()):
            looked = models
            if one is not None:
                await self._refuse_one(one, models)
            elif before is not None:
                await self._refuse_days(before, models)

    async def _refuse_one(self, one: bytes, models: set[str]) -> None:
        for model in sorted(models):
            if await asyncio.to_thread(self._bodies.is_of, model, one):
                self._refuse(model, where="the body of this entry")

    async def _refuse_days(self, before: date, models: set[str]) -> None:
        oldest: dict[str, str] = {}
        for model in sorted(models):
            day = await asyncio.to_thread(self._bodies.oldest, model, before.isoformat())
            if day is not None:
                oldest[model] = day
        if oldest:
            model = min(oldest, key=lambda model: oldest[model])
            where = f"bodies before {before.isoformat()}"
            self._refuse(model, where, f"`--before {oldest[model]}` or `--index N` spare what it keeps. ")
        keeps = self._settings.prompts or self._settings.answers
        if keeps and before > self._state.now().date():
            for model in sorted(models & self._served()):  # a body may be kept, and its entry on its way
                self._refuse(model, "bodies of today", "Name a day up to today: the model is served. ")

    def _held_models(self) -> set[str]:
        with self._state.read() as session:
            kept = held(session)
            models = select(ObjectRow.object_id).where(ObjectRow.kind == ObjectKind.MODEL)
            return kept.intersection(session.scalars(models)) if kept else kept

    def _served(self) -> set[str]:
        with self._state.read() as session:
            return set(session.scalars(select(DeploymentRow.model).where(DeploymentRow.state.in_(SERVED))))

    def _refuse(self, model: str, where: str, remedy: str = "") -> NoReturn:
        """Errors: Conflict, naming the oldest of the holds that keep this model's bodies."""
        with self._state.read() as session:
            holds = [hold_document(row) for row in holds_on_object(session, model)]
        if not holds:
            raise Conflict("a legal hold was released meanwhile", where=where, remedy="Ask again.")
        raise Conflict(
            words_of(holds[0]),
            where=where,
            remedy=f"{remedy}Whoever placed it may `cloister dataset release {holds[0].name}`.",
        )
