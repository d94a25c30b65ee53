"""The vault's routes on the authority's socket: slots, rotation, checks. Nothing is decided here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from cloister.api import AddedSlot, Job, KekRotated, NewSlot, Opening, RootRotated, SlotSecret, SlotView
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may


def vault_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1/vault")

    @router.post("/unlock", dependencies=[may("vault.unlock")])
    async def unlock(peer: Caller, body: SlotSecret) -> Opening:
        opening = await authority.slots.unlock(peer, body)
        if opening.open:
            with authority.state.change() as change:
                change.event("vault.unlocked")
        return opening

    @router.get("/slots", dependencies=[may("slot.list")])
    async def slots() -> list[SlotView]:
        return authority.slots.listed()

    @router.post("/slots", status_code=201, dependencies=[may("slot.add")])
    async def add_slot(peer: Caller, body: NewSlot) -> AddedSlot:
        return await authority.slots.add(peer, body)

    @router.post("/slots/{slot}/remove", status_code=204, dependencies=[may("slot.remove")])
    async def remove_slot(peer: Caller, slot: int, body: SlotSecret) -> None:
        await authority.slots.remove(peer, slot, body)

    @router.post("/rotate/kek", dependencies=[may("vault.rotate")])
    async def rotate_kek(peer: Caller) -> KekRotated:
        return await authority.slots.rotate_kek(peer)

    @router.post("/rotate/root", dependencies=[may("vault.rotate")])
    async def rotate_root(peer: Caller, body: SlotSecret) -> RootRotated:
        return await authority.slots.rotate_root(peer, body)

    @router.post("/rotate/objects/{reference}", status_code=202, dependencies=[may("object.rotate")])
    async def rotate_object(peer: Caller, reference: str) -> Job:
        return await authority.rotation.start(peer, reference)

    @router.post("/check", dependencies=[may("vault.check")])
    async def check(peer: Caller, quick: Annotated[bool, Query()] = False) -> StreamingResponse:
        found = await authority.checking.begin(peer, full=not quick)

        async def lines() -> AsyncIterator[str]:
            async for line in found:
                yield line.model_dump_json() + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return router
