"""The routes about measuring runs. Nothing is decided here."""

from __future__ import annotations

from fastapi import APIRouter

from cloister.api import ErrorsConfig, EvaluationRequest, JobTicket
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may


def evaluation_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1")

    @router.post("/runs/{reference}/evaluate", status_code=202, dependencies=[may("evaluation.start")])
    async def evaluate(peer: Caller, reference: str, body: EvaluationRequest) -> JobTicket:
        return await authority.evaluations.start(peer, reference, body)

    @router.post("/runs/{reference}/errors", status_code=202, dependencies=[may("evaluation.reveal")])
    async def errors(peer: Caller, reference: str, body: ErrorsConfig) -> JobTicket:
        return await authority.evaluations.show(peer, reference, body)

    return router
