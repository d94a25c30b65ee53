"""The routes about models that leave the house. Nothing is decided here."""

from __future__ import annotations

from fastapi import APIRouter

from cloister.api import ExportRequest, JobTicket, ModelSigningKey
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may


def export_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1")

    @router.post("/models/{reference}/export", status_code=202, dependencies=[may("model.export")])
    async def export(peer: Caller, reference: str, body: ExportRequest) -> JobTicket:
        return await authority.model_exports.ask(peer, reference, body)

    @router.get("/exports/key", dependencies=[may("model.list")])
    async def key() -> ModelSigningKey:
        return authority.model_exports.key()

    return router
