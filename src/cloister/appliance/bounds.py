"""Bounds on what one account may ask of the socket: sizes, rates and streams, so that none starves the rest.

An ASGI layer in front of all routes; knows connections, no action and no part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloister.appliance.peer import SCOPE_KEY, Peer
from cloister.errors import CloisterError, InvalidInput, TooManyRequests
from cloister.policy.settings import ApiSettings

MAX_BODY_BYTES = 1 << 20
ACCOUNTS = 1024
"""So many accounts are remembered; one that has been quiet for long is as good as new."""


@dataclass
class _Account:
    tokens: float
    at: float
    streams: int = 0


class Bounds:
    """Refuses what is too large, too fast, or one stream too many; passes everything else on."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ApiSettings,
        refuse: Callable[[CloisterError], Response],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._settings = settings
        self._refuse = refuse
        self._clock = clock
        self._accounts: dict[int, _Account] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = scope.get("extensions", {}).get(SCOPE_KEY)
        account = self._account(peer.uid) if isinstance(peer, Peer) else None
        try:
            _require_bounded(scope)
            if account is not None:
                self._take_token(account)
        except CloisterError as error:
            await self._refusal(error)(scope, receive, send)
            return
        if account is None:
            await self._app(scope, receive, send)
            return
        await self._counting_streams(account, scope, receive, send)

    def _refusal(self, error: CloisterError) -> Response:
        """The answer; one that asks too much is told how long to wait (RFC 9110, Retry-After)."""
        response = self._refuse(error)
        if isinstance(error, TooManyRequests):
            response.headers["retry-after"] = str(max(1, round(error.values["retry_after_s"])))
        return response

    def _account(self, uid: int) -> _Account:
        now = self._clock()
        account = self._accounts.get(uid)
        if account is None:
            if len(self._accounts) >= ACCOUNTS:
                idle = {key: one for key, one in self._accounts.items() if not one.streams}
                for key in sorted(idle, key=lambda key: idle[key].at)[: ACCOUNTS // 2]:
                    del self._accounts[key]
            account = self._accounts[uid] = _Account(self._settings.burst, now)
        earned = (now - account.at) * self._settings.requests_per_s
        account.tokens = min(float(self._settings.burst), account.tokens + earned)
        account.at = now
        return account

    def _take_token(self, account: _Account) -> None:
        if account.tokens < 1:
            wait = (1 - account.tokens) / self._settings.requests_per_s
            raise TooManyRequests(
                "this account asks for more than its share",
                remedy="Wait a moment; the settings say how much one account may ask for (`api`).",
                values={"retry_after_s": round(wait, 3)},
            )
        account.tokens -= 1

    async def _counting_streams(self, account: _Account, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that is a stream counts for as long as it flows."""
        streaming = False

        async def watch(message: Message) -> None:
            nonlocal streaming
            if message["type"] == "http.response.start" and not streaming:
                kinds = [value for name, value in message["headers"] if name == b"content-type"]
                if any(kind.startswith(b"text/event-stream") for kind in kinds):
                    if account.streams >= self._settings.streams:
                        raise _OneTooMany
                    streaming = True
                    account.streams += 1
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except* _OneTooMany:
            error = TooManyRequests(
                f"this account follows {account.streams} streams already",
                remedy="Close some of them.",
                values={"retry_after_s": 1.0},
            )
            await self._refusal(error)(scope, receive, send)
        finally:
            if streaming:
                account.streams -= 1


class _OneTooMany(Exception):
    """Nothing of the stream has been sent yet."""


def _require_bounded(scope: Scope) -> None:
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise InvalidInput(f"a request body has a length of at most {MAX_BODY_BYTES} bytes")
