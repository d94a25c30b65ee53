"""The gateway's ear at the authority: its secrets once, its view whenever that changes, its keep-alives.

Feeds a `Directory` and knows nothing of requests. An authority that is away is looked for with
back-off; what is held stays in force until the directory calls it stale.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import structlog
from pydantic import ValidationError

from cloister.api import EVENTS_LOST, Event, GatewaySecrets, GatewayView
from cloister.errors import InvalidInput
from cloister.gateway.directory import Directory

log = structlog.get_logger()

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 3.0
_QUIET_S: Final = 20.0  # the authority says something every 5 s
_FOLLOWED: Final = ("client.", "deployment.", "policy.", "sink.", "vault.")
_TOLD_ONLY: Final = (".progress", ".notice")


@dataclass(frozen=True, slots=True)
class Secrets:
    """The gateway's own keys, 32 bytes each. They lie in memory only."""

    ledger_seed: bytes = field(repr=False)
    pepper: bytes = field(repr=False)
    cache_key: bytes = field(repr=False)


class _Refused(Exception):
    """The authority answered, but not with what was asked for."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Authority:
    """Follows the authority at the Unix socket `path`.

    Args:
        path: where it listens.
        directory: what is kept up to date.
        hello: what the authority is told about this gateway: `{"pid": …, "url": …}`.
        on_view: called after each new view.
        on_locked: called when the vault has been locked: what came from it is to be forgotten.
    """

    def __init__(
        self,
        path: Path,
        directory: Directory,
        *,
        hello: dict[str, str | int],
        on_view: Callable[[], None] = lambda: None,
        on_locked: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._hello = hello
        self._on_view = on_view
        self._on_locked = on_locked
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(path)),
            base_url="http://authority",
            timeout=httpx.Timeout(10.0, read=_QUIET_S),
        )
        self._connected = False

    async def close(self) -> None:
        await self._client.aclose()

    async def secrets(self) -> Secrets:
        """Ask until the authority is unlocked and hands them out."""
        wait = _FIRST_WAIT_S
        while True:
            try:
                answer = GatewaySecrets.model_validate_json(await self._get("/v1/gateway/secrets"))
                return Secrets(
                    ledger_seed=_key(answer.ledger_seed),
                    pepper=_key(answer.pepper),
                    cache_key=_key(answer.cache_key),
                )
            except (httpx.HTTPError, _Refused, ValidationError, InvalidInput):
                await asyncio.sleep(wait)
                wait = min(wait * 1.5, 1.0)

    async def follow(self) -> None:
        """Keep the directory up to date, for ever."""
        wait = _FIRST_WAIT_S
        while True:
            try:
                await self._fetch_view()
                await self._say_hello()
                async with self._events() as lines:
                    if not self._connected:
                        self._connected = True
                        log.info("authority.connected", seq=self._directory.seq)
                    wait = _FIRST_WAIT_S
                    await self._listen(lines)
            except (httpx.HTTPError, _Refused, ValidationError, ValueError) as fault:
                if self._connected:
                    self._connected = False
                    log.warning("authority.lost", cause=type(fault).__name__)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  spreads reconnects, no secret
            wait = min(wait * 2, _LONGEST_WAIT_S)

    @contextlib.asynccontextmanager
    async def _events(self) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of the stream of events from the last number known."""
        parameters = {"after": self._directory.seq}
        async with self._client.stream("GET", "/v1/events", params=parameters) as answer:
            if answer.status_code != 200:
                raise _Refused(answer.status_code)
            yield answer.aiter_lines()

    async def _listen(self, lines: AsyncIterator[str]) -> None:
        """Take one event after the other until the stream ends."""
        data: list[str] = []
        async for line in lines:
            if line.startswith("data:"):
                data.append(line[5:].strip())
            elif not line and data:
                await self._take(Event.model_validate_json("\n".join(data)))
                data = []
            self._directory.heard()

    async def _take(self, event: Event) -> None:
        """Act on an event. Whatever fails here ends the stream before it counts as heard."""
        lost = event.kind in EVENTS_LOST
        if event.kind == "vault.locked" or lost:  # one of those that are lost may have said so
            self._on_locked()
        known = event.seq <= self._directory.seq and not lost  # the view is at least as new
        told = event.kind.startswith(_FOLLOWED) and not event.kind.endswith(_TOLD_ONLY)
        if known or not (told or lost):
            self._directory.seq = max(self._directory.seq, event.seq)
            return
        if event.kind == "client.revoked" and event.subject:
            self._directory.revoke(event.subject)
        await self._fetch_view()

    async def _fetch_view(self) -> None:
        view = GatewayView.model_validate_json(await self._get("/v1/gateway/view"))
        self._directory.apply(view)
        self._directory.heard()
        self._on_view()

    async def _say_hello(self) -> None:
        """Whether the authority can record it does not matter here: revocations must be heard anyway."""
        await self._client.post("/v1/gateway/hello", json=self._hello)

    async def _get(self, path: str) -> bytes:
        answer = await self._client.get(path)
        if answer.status_code != 200:
            raise _Refused(answer.status_code)
        return answer.content


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise InvalidInput("A secret of the gateway is not 32 bytes in base64.", where="/v1/gateway/secrets")
    return key
