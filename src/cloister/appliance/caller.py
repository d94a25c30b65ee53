"""Who sent a request, for routes: the account of its connection."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from cloister.appliance.peer import SCOPE_KEY, Peer
from cloister.errors import Unauthenticated


async def _peer(request: Request) -> Peer:
    peer = request.scope.get("extensions", {}).get(SCOPE_KEY)
    if not isinstance(peer, Peer):
        raise Unauthenticated("this connection has no account")
    return peer


Caller = Annotated[Peer, Depends(_peer)]
