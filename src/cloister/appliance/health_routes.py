"""The routes about how the appliance is: alerts, and figures for Prometheus. Nothing is decided here."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from cloister.api import Alert
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may


def health_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1")

    @router.get("/alerts", dependencies=[may("alert.list")])
    async def alerts() -> list[Alert]:
        return authority.alerts.listed()

    @router.post("/alerts/{reference}/acknowledge", dependencies=[may("alert.acknowledge")])
    async def acknowledge(peer: Caller, reference: str) -> Alert:
        return await authority.alerts.acknowledge(peer, reference)

    @router.get("/metrics", dependencies=[may("metrics.read")], response_class=PlainTextResponse)
    async def metrics() -> Response:
        text = await asyncio.to_thread(authority.figures.text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
