"""The routes about alerts. Nothing is decided here."""

from __future__ import annotations

from fastapi import APIRouter

from cloister.api import Alert
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may


def alert_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1/alerts")

    @router.get("", dependencies=[may("alert.list")])
    async def alerts() -> list[Alert]:
        return authority.alerts.listed()

    @router.post("/{reference}/acknowledge", dependencies=[may("alert.acknowledge")])
    async def acknowledge(peer: Caller, reference: str) -> Alert:
        return await authority.alerts.acknowledge(peer, reference)

    return router
