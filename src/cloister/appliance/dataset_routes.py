"""The routes about what is in datasets, and what is made of them. Nothing is decided here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cloister.api import (
    DatasetReport,
    DeriveRequest,
    Job,
    JobTicket,
    RenderRequest,
    ReportRequest,
    RowsConfig,
)
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may


def dataset_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1/datasets/{reference}")

    @router.post("/report", status_code=202, dependencies=[may("dataset.report")])
    async def report(peer: Caller, reference: str, body: ReportRequest) -> Job:
        return await authority.looking.report(peer, reference, body)

    @router.get("/report", dependencies=[may("dataset.list")])
    async def last_report(reference: str) -> DatasetReport:
        return authority.looking.last_report(reference)

    @router.post("/rows", status_code=202, dependencies=[may("dataset.reveal")])
    async def rows(peer: Caller, reference: str, body: RowsConfig) -> JobTicket:
        return await authority.looking.show(peer, reference, body)

    @router.post("/render", status_code=202, dependencies=[may("dataset.reveal")])
    async def render(peer: Caller, reference: str, body: RenderRequest) -> JobTicket:
        return await authority.looking.render(peer, reference, body)

    @router.post("/derive", status_code=202, dependencies=[may("dataset.derive")])
    async def derive(peer: Caller, reference: str, body: DeriveRequest) -> JobTicket:
        return await authority.deriving.derive(peer, reference, body)

    @router.post("/source-removal", status_code=204, dependencies=[may("dataset.import")])
    async def source_removal(
        peer: Caller,
        reference: str,
        filesystem: Annotated[str, Query(pattern=r"^[a-z0-9._-]{1,32}$")] = "unknown",
        overwritten: bool = False,
    ) -> None:
        await authority.requests.source_goes(peer, reference, filesystem, overwritten=overwritten)

    return router
