"""The routes about what goes and what is kept: shreds, holds, forgetting, backups. Nothing is decided here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cloister.api import (
    MAX_VERSION,
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
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may, may_by
from cloister.errors import NotFound

KINDS = {"datasets": str(ObjectKind.DATASET), "models": str(ObjectKind.MODEL), "runs": "run"}
ENTITIES = {"datasets": "Dataset", "models": "Model", "runs": "Run"}


PLANS = {name: ("shred.plan", entity) for name, entity in ENTITIES.items()}
SHREDS = {name: ("shred.start", entity) for name, entity in ENTITIES.items()}


def erasure_routes(authority: Authority) -> APIRouter:
    """To be included before routes that match any collection."""
    router = APIRouter(prefix="/v1")

    def kind_of(collection: str) -> str:
        if collection not in KINDS:
            raise NotFound("nothing of this kind is shredded", where=collection[:64])
        return KINDS[collection]

    @router.get("/shreds", dependencies=[may("shred.list")])
    async def shreds() -> list[Shred]:
        return authority.shredding.listed()

    @router.get("/shreds/{shred_id}", dependencies=[may("shred.list")])
    async def one_shred(shred_id: str) -> Shred:
        return authority.shredding.one(shred_id)

    @router.get("/holds", dependencies=[may("shred.list")])
    async def holds() -> list[Hold]:
        return authority.holds.listed()

    @router.post("/backups", status_code=202, dependencies=[may("backup.make")])
    async def back_up(peer: Caller, body: BackupRequest) -> JobTicket:
        return await authority.backups.ask(peer, body)

    @router.get("/backups", dependencies=[may("backup.list")])
    async def backups() -> list[Backup]:
        return authority.backups.listed()

    @router.post("/backups/{backup_id}/discard", dependencies=[may("backup.discard")])
    async def discard(peer: Caller, backup_id: str) -> Backup:
        return await authority.backups.discard(peer, backup_id)

    @router.post("/datasets/{reference}/hold", status_code=201, dependencies=[may("dataset.hold")])
    async def hold(peer: Caller, reference: str, body: HoldRequest) -> Hold:
        return await authority.holds.place(peer, reference, body.reason)

    @router.post("/datasets/{reference}/release", dependencies=[may("dataset.release")])
    async def release(peer: Caller, reference: str) -> list[Hold]:
        return await authority.holds.release(peer, reference)

    @router.post("/datasets/{reference}/forget", status_code=202, dependencies=[may("dataset.forget")])
    async def forget(peer: Caller, reference: str, body: ForgetRequest) -> Job:
        return await authority.forgetting.forget(peer, reference, body)

    @router.get("/{collection}/{reference}/shred", dependencies=[may_by(PLANS)])
    async def plan(
        collection: str, reference: str, version: Annotated[int | None, Query(ge=1, le=MAX_VERSION)] = None
    ) -> ShredPlan:
        return await authority.shredding.plan(kind_of(collection), reference, version)

    @router.post("/{collection}/{reference}/shred", dependencies=[may_by(SHREDS)])
    async def shred(peer: Caller, collection: str, reference: str, body: ShredRequest) -> Shred:
        return await authority.shredding.shred(peer, kind_of(collection), reference, body)

    return router
