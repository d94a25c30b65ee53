"""The authority's routes for auditors: searching and following the ledgers, and the bodies beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse

from cloister.api import (
    BodyRequest,
    LedgerMatches,
    LedgerName,
    LogState,
    RevealResult,
    RevealTicket,
    ShredBodiesRequest,
    ShredBodiesResult,
)
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may
from cloister.ledger.query import Query as LedgerQuery

MAX_MATCHES = 1_000
_Text = Annotated[str | None, Query(min_length=1, max_length=256)]


def audit_router(authority: Authority) -> APIRouter:
    router = APIRouter(prefix="/v1/audit")

    @router.get("/search", dependencies=[may("ledger.read")])
    async def search(
        ledger: LedgerName = "control",
        actor: _Text = None,
        action: _Text = None,
        object: _Text = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_MATCHES)] = 50,
        index: bool = True,
    ) -> LedgerMatches:
        query = LedgerQuery(actor, action, object, since, until, before)
        return await asyncio.to_thread(authority.auditing.search, ledger, query, limit, indexed=index)

    @router.get("/follow", dependencies=[may("ledger.read")])
    async def follow(
        ledger: LedgerName = "control",
        after: Annotated[int, Query(ge=0)] = 0,
        actor: _Text = None,
        action: _Text = None,
        object: _Text = None,
    ) -> StreamingResponse:
        await asyncio.to_thread(authority.auditing.snapshot, ledger)  # what is not there is told at once

        async def lines() -> AsyncIterator[str]:
            async for entry in authority.auditing.follow(ledger, after, LedgerQuery(actor, action, object)):
                if entry is None:
                    yield ": keep-alive\n\n"
                else:
                    yield f"id: {entry.index}\ndata: {entry.model_dump_json()}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @router.get("/log/{ledger}", dependencies=[may("ledger.read")])
    async def log(ledger: LedgerName) -> LogState:
        return await asyncio.to_thread(authority.auditing.log, ledger)

    @router.get(
        "/log/{ledger}/tile/{path:path}",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}},
        dependencies=[may("ledger.read")],
    )
    async def tile(ledger: LedgerName, path: Annotated[str, Path(max_length=64)]) -> Response:
        data = await asyncio.to_thread(authority.auditing.tile, ledger, path)
        return Response(data, media_type="application/octet-stream")

    @router.post("/reveal", status_code=202, dependencies=[may("body.reveal")])
    async def reveal(peer: Caller, body: BodyRequest) -> RevealTicket:
        return await authority.revealing.ask(peer, body)

    @router.get("/reveal/{reveal_id}", dependencies=[may("body.reveal")])
    async def revealed(peer: Caller, reveal_id: str) -> RevealResult:
        return await authority.revealing.outcome(peer, reveal_id)

    @router.post("/shred-bodies", dependencies=[may("body.shred")])
    async def shred_bodies(peer: Caller, body: ShredBodiesRequest) -> ShredBodiesResult:
        return await authority.body_shredding.shred(peer, body)

    return router
