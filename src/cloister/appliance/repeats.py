"""A request that is sent twice is done once: by its idempotency key, across restarts of the authority too.

An ASGI layer before the routes. It keeps answers that hold no secret, for a day, and gives one again only to an account
that may still do what it is the answer to; knows no action and no part.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from sqlalchemy import delete
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloister.api import ONCE_PATHS
from cloister.appliance.peer import SCOPE_KEY, Peer
from cloister.appliance.state import ReplyRow
from cloister.appliance.store import StateStore
from cloister.errors import CloisterError, Conflict, InvalidInput, OutOfSpace

HEADER = b"idempotency-key"
KEPT = timedelta(days=1)
_KEY = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_PATHS = re.compile(ONCE_PATHS)


class Repeats:
    """Answers a repeated request with what was answered first."""

    def __init__(
        self,
        app: ASGIApp,
        state: StateStore,
        has_role: Callable[[Peer], Awaitable[bool]],
        require: Callable[[Scope, Peer], Awaitable[None]],
        refuse: Callable[[CloisterError], Response],
    ) -> None:
        self._has_role = has_role
        self._require = require
        self._app = app
        self._state = state
        self._refuse = refuse
        self._running: set[tuple[int, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope.get("extensions", {}).get(SCOPE_KEY) if scope["type"] == "http" else None
        given = dict(scope["headers"]).get(HEADER) if isinstance(peer, Peer) else None
        if given is None or scope["method"] != "POST" or not isinstance(peer, Peer):
            await self._app(scope, receive, send)
            return
        try:
            if not _KEY.fullmatch(given):
                raise InvalidInput(
                    "an idempotency key has 8 to 64 letters, digits, - and _", where="idempotency-key"
                )
            if not _PATHS.fullmatch(scope["path"]):
                raise InvalidInput("this request takes no idempotency key", where=str(scope["path"])[:100])
            if not await self._has_role(peer):  # it is refused anyway, and nothing is kept for it
                await self._app(scope, receive, send)
                return
            body = await _whole(receive)
            digest = hashlib.sha256(b"\0".join([scope["path"].encode(), scope["query_string"], body]))
            name = (peer.uid, given.decode())
            before = self._begin(name, digest.hexdigest())
            if before is not None:
                await self._require(scope, peer)
        except CloisterError as error:
            await self._refuse(error)(scope, receive, send)
            return
        if before is not None:
            await before(scope, receive, send)
            return
        try:
            messages = await self._run(scope, body)
        except BaseException:
            self._running.discard(name)  # nobody knows how far it came: asked again, it says so
            raise
        self._end(name, messages)  # kept before it is sent: whoever has an answer may ask for it again
        for message in messages:
            await send(message)

    def _begin(self, name: tuple[int, str], digest: str) -> Response | None:
        """What was answered before; None where this is the first time. Errors: Conflict."""
        try:
            with self._state.change() as change:
                change.session.execute(delete(ReplyRow).where(ReplyRow.at < change.now - KEPT))
                row = change.session.get(ReplyRow, name)
                if row is None:
                    change.session.add(
                        ReplyRow(uid=name[0], key=name[1], digest=digest, at=change.now, status=None, body="")
                    )
        except OutOfSpace:
            return None  # what takes away is done on a full disk too
        if row is None:
            self._running.add(name)
            return None
        if row.digest != digest:
            raise Conflict("this idempotency key was another request's", remedy="Take a fresh one.")
        if row.status is not None:
            return Response(
                row.body, row.status, {"idempotent-replay": "true"}, media_type="application/json"
            )
        if name in self._running:
            raise Conflict("this request is still being answered", remedy="Wait for its end.")
        raise Conflict(
            "the authority was cut off while it answered this request",
            remedy="Look whether it was done: `cloister since`.",
        )

    def _end(self, name: tuple[int, str], messages: Sequence[Message]) -> None:
        self._running.discard(name)
        status = messages[0]["status"] if messages else 500
        try:
            with self._state.change() as change:
                row = change.session.get(ReplyRow, name)
                if row is not None and status < 400:
                    row.status = status
                    row.body = b"".join(message.get("body", b"") for message in messages).decode()
                elif row is not None:
                    change.session.delete(row)  # refused: it may be tried again
        except OutOfSpace:
            pass

    async def _run(self, scope: Scope, body: bytes) -> list[Message]:
        """All that the route answers, its start first."""
        messages: list[Message] = []
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        return messages


async def _whole(receive: Receive) -> bytes:
    """The body; what is in front of this has bounded it."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Conflict("the client has gone")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
