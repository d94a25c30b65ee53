"""The routes about what goes and what is kept: shreds, holds, forgetting, backups. Nothing is decided here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from cloister.api import (
    Backup,
    BackupRequest,
    ForgetRequest,
    Hold,
    HoldRequest,
    Job,
    JobTicket,
    ObjectKind,
    Shred,
    ShredPlan,
    ShredRequest,
)
from cloister.appliance.authority import Authority
from cloister.appliance.peer import SCOPE_KEY, Peer
from cloister.errors import NotFound, Unauthenticated

KINDS = {"datasets": str(ObjectKind.DATASET), "models": str(ObjectKind.MODEL), "runs": "run"}


def _peer(request: Request) -> Peer:
    peer = request.scope.get("extensions", {}).get(SCOPE_KEY)
    if not isinstance(peer, Peer):
        raise Unauthenticated("this connection has no account")
    return peer


Caller = Annotated[Peer, Depends(_peer)]


def erasure_routes(authority: Authority) -> APIRouter:
    """To be included before routes that match any collection."""
    router = APIRouter(prefix="/v1")

    def kind_of(collection: str) -> str:
        if collection not in KINDS:
            raise NotFound("nothing of this kind is shredded", where=collection[:64])
        return KINDS[collection]

    @router.get("/shreds")
    async def shreds() -> list[Shred]:
        return authority.shredding.listed()

    @router.get("/shreds/{shred_id}")
    async def one_shred(shred_id: str) -> Shred:
        return authority.shredding.one(shred_id)

    @router.get("/holds")
    async def holds() -> list[Hold]:
        return authority.holds.listed()

    @router.post("/backups", status_code=202)
    async def back_up(peer: Caller, body: BackupRequest) -> JobTicket:
        return await authority.backups.ask(peer, body)

    @router.get("/backups")
    async def backups() -> list[Backup]:
        return authority.backups.listed()

    @router.post("/backups/{backup_id}/discard")
    async def discard(peer: Caller, backup_id: str) -> Backup:
        return await authority.backups.discard(peer, backup_id)

    @router.post("/datasets/{reference}/hold", status_code=201)
    async def hold(peer: Caller, reference: str, body: HoldRequest) -> Hold:
        return await authority.holds.place(peer, reference, body.reason)

    @router.post("/datasets/{reference}/release")
    async def release(peer: Caller, reference: str) -> list[Hold]:
        return await authority.holds.release(peer, reference)

    @router.post("/datasets/{reference}/forget", status_code=202)
    async def forget(peer: Caller, reference: str, body: ForgetRequest) -> Job:
        return await authority.forgetting.forget(peer, reference, body)

    @router.get("/{collection}/{reference}/shred")
    async def plan(
        collection: str, reference: str, version: Annotated[int | None, Query(ge=1)] = None
    ) -> ShredPlan:
        return await authority.shredding.plan(kind_of(collection), reference, version)

    @router.post("/{collection}/{reference}/shred")
    async def shred(peer: Caller, collection: str, reference: str, body: ShredRequest) -> Shred:
        return await authority.shredding.shred(peer, kind_of(collection), reference, body)

    return router
