"""What the gateway writes into its ledger, and how refusals are kept from filling the disk.

Entries say who, what, when, how large and how it ended: ids, sizes and counts, never a byte of a prompt
or an answer, nor a word that a caller chose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from cloister.errors import LedgerUnavailable
from cloister.gateway.directory import Target
from cloister.ledger import Entry, Ledger

_BURST: Final = 20.0
_PER_SECOND: Final = 0.2
_KINDS: Final = 4096


@dataclass(slots=True)
class Outcome:
    """How an admitted request ended. `status` 499 means that the client went away."""

    status: int = 500
    reason: str = "ok"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    events: int | None = None
    duration_ms: int = 0


@dataclass(slots=True)
class _Refused:
    """Refusals of one kind by one client: a bucket of entries of their own, the rest counted."""

    tokens: float
    filled_at: float
    count: int = 0
    first: str = ""


class Journal:
    """Entries about requests, durable before the method returns.

    Args:
        ledger: the gateway's own.
        monotonic: seconds that only grow, for the rate of refusals.
        now: the time of an entry.
        policy: the digest of the policy set in force, where it is known yet.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        policy: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._policy = policy
        self._ledger = ledger
        self._monotonic = monotonic
        self._now = now
        self._refused: dict[tuple[str, int, str], _Refused] = {}

    async def process(self, action: str, details: Mapping[str, str | int]) -> None:
        """Something about the gateway itself: started, stopped. Raises LedgerUnavailable."""
        await self._append(
            Entry(
                time=self._time(),
                actor="gateway",
                identified_by="process",
                action=action,
                details=dict(details),
            )
        )

    async def admitted(
        self,
        request_id: str,
        client_id: str,
        target: Target,
        *,
        route: str,
        body_bytes: int,
        stream: bool,
        choices: int,
        max_tokens: int | None,
        digests: Mapping[str, str],
    ) -> None:
        """The intent to pass a request on. Raises LedgerUnavailable: then it must not be."""
        details: dict[str, str | int | bool | None] = {
            "request_id": request_id,
            "route": route,
            "body_bytes": body_bytes,
            "stream": stream,
            "choices": choices,
            "max_tokens": max_tokens,
        }
        await self._append(
            Entry(
                time=self._time(),
                actor=client_id,
                identified_by="api-key",
                action="inference.intent",
                objects=(target.deployment_id, target.model),
                digests=digests,
                decision="allow",
                details=details,
            )
        )

    async def completed(
        self,
        request_id: str,
        client_id: str,
        target: Target,
        outcome: Outcome,
        *,
        digests: Mapping[str, str],
    ) -> None:
        """How it ended, with the commitment to the answer where that is kept.

        Raises LedgerUnavailable: then the client must not see the end.
        """
        details: dict[str, str | int | bool | None] = {
            "request_id": request_id,
            "status": outcome.status,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "finish_reason": outcome.finish_reason,
            "events": outcome.events,
            "duration_ms": outcome.duration_ms,
            "client_gone": outcome.status == 499,
        }
        await self._append(
            Entry(
                time=self._time(),
                actor=client_id,
                identified_by="api-key",
                action="inference.completion",
                objects=(target.deployment_id, target.model),
                digests=digests,
                reason=outcome.reason,
                details=details,
            )
        )

    async def answered(self, request_id: str, client_id: str, action: str) -> None:
        """A request that no engine saw, such as the list of models; counted where there are many.

        Raises LedgerUnavailable.
        """
        if self._spare(client_id, 200, action):
            details = {"request_id": request_id, "status": 200}
            await self._append(
                Entry(self._time(), client_id, "api-key", action, decision="allow", details=details)
            )

    async def refused(self, request_id: str, client_id: str | None, status: int, code: str) -> None:
        """A refusal: an entry of its own, or one more of its kind where there are many.

        Never fails: what cannot be written now is counted, and written by `flush` when it can be.
        """
        actor = client_id or "anonymous"
        if not self._spare(actor, status, code):
            return
        details = {"request_id": request_id, "status": status}
        try:
            await self._append(
                Entry(
                    time=self._time(),
                    actor=actor,
                    identified_by="api-key" if client_id else "none",
                    action="inference.refused",
                    decision="deny",
                    reason=code,
                    details=details,
                )
            )
        except LedgerUnavailable:
            self._count((actor, status, code))

    def count_refused(self, status: int, code: str) -> None:
        """A refusal below the level of requests (not HTTP, too large a head): only counted."""
        self._bucket(("anonymous", status, code))
        self._count(("anonymous", status, code))

    async def flush(self) -> None:
        """Write one entry for each kind of refusal that was only counted. Raises LedgerUnavailable."""
        for key, kind in list(self._refused.items()):
            if not kind.count:
                if self._monotonic() - kind.filled_at > 60.0:
                    del self._refused[key]
                continue
            actor, status, code = key
            counted, first = kind.count, kind.first
            kind.count = 0
            details = {"status": status, "count": counted, "since": first}
            try:
                await self._append(
                    Entry(
                        time=self._time(),
                        actor=actor,
                        identified_by="none" if actor == "anonymous" else "api-key",
                        action="inference.counted",
                        decision="deny" if status >= 400 else "allow",
                        reason=code,
                        details=details,
                    )
                )
            except LedgerUnavailable:
                kind.count += counted
                kind.first = first
                raise

    def _spare(self, actor: str, status: int, code: str) -> bool:
        """Whether one more entry of this kind fits its rate; counts it where not."""
        key = (actor, status, code)
        kind = self._bucket(key)
        moment = self._monotonic()
        kind.tokens = min(_BURST, kind.tokens + (moment - kind.filled_at) * _PER_SECOND)
        kind.filled_at = moment
        if kind.tokens < 1.0:
            self._count(key)
            return False
        kind.tokens -= 1.0
        return True

    def _bucket(self, key: tuple[str, int, str]) -> _Refused:
        kind = self._refused.get(key)
        if kind is None:
            if len(self._refused) >= _KINDS:
                key = ("anonymous", key[1], "other")
            kind = self._refused.setdefault(key, _Refused(_BURST, self._monotonic()))
        return kind

    def _count(self, key: tuple[str, int, str]) -> None:
        kind = self._bucket(key)
        if not kind.count:
            kind.first = self._time()
        kind.count += 1

    async def _append(self, entry: Entry) -> None:
        # asyncio.wrap_future in fewer steps: this is on the way of every request, twice.
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        durable = self._ledger.submit(replace(entry, policy=self._policy()))
        durable.add_done_callback(lambda done: loop.call_soon_threadsafe(_settle, waiter, done))
        await waiter

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds")


def _settle(waiter: asyncio.Future[None], durable: Future[int]) -> None:
    if waiter.done():
        return
    fault = durable.exception()
    if fault is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(fault)
