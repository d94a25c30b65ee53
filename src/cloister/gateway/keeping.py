"""Keeping what was asked and answered, where policy wants it: sealed to a key that is not the gateway's.

One thread seals and writes for all requests, many bodies with one write. What cannot be kept is refused
as what cannot be recorded is.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

from cloister.api import BodiesPolicy
from cloister.errors import CloisterError, LedgerUnavailable
from cloister.vault.bodies import seal_body
from cloister.vault.body_store import BodyStore

_BATCH = 64


@dataclass(frozen=True, slots=True)
class _Waiting:
    body: bytes
    kind: str
    public_key: bytes
    kept: Future[str]


class Keeper:
    """Keeps bodies for the entries of one log.

    Args:
        folder: the store's.
        origin: the log's.
        now: whose day a body is of.
    """

    def __init__(
        self, folder: Path, origin: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._folder = folder
        self._origin = origin
        self._now = now
        self._store: BodyStore | None = None
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    async def keep(self, policy: BodiesPolicy, kind: str, body: bytes) -> dict[str, str]:
        """What the entry says of the body: `{kind: commitment}` once it is durable, {} where policy keeps none.

        Raises LedgerUnavailable: then go no further.
        """
        if not (policy.prompts if kind == "prompt" else policy.answers) or not body:
            return {}
        if policy.public_key is None:
            raise LedgerUnavailable(f"There is no key to keep the {kind} under.")
        waiting = _Waiting(body, kind, base64.b64decode(policy.public_key), Future())
        self._queue.put(waiting)
        return {kind: await asyncio.wrap_future(waiting.kept)}

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._store is not None:
            self._store.close()

    def _run(self) -> None:
        while True:
            batch: list[_Waiting] = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= _BATCH or not self._queue.qsize():
                    break
                item = self._queue.get()
            if batch:
                self._keep(batch)
            if item is None:
                return

    def _keep(self, batch: list[_Waiting]) -> None:
        try:
            sealed = [seal_body(one.body, one.kind, one.public_key, self._origin) for one in batch]
            if self._store is None:
                self._store = BodyStore(self._folder)
            self._store.keep(sealed, self._now().date().isoformat())
        except Exception as error:
            words = error.message if isinstance(error, CloisterError) else type(error).__name__
            for one in batch:
                _settle(one.kept, None, LedgerUnavailable(f"A body cannot be kept: {words}."))
        else:
            for one, body in zip(batch, sealed, strict=True):
                _settle(one.kept, body.commitment.hex(), None)


def _settle(kept: Future[str], commitment: str | None, error: Exception | None) -> None:
    """Answer, unless nobody waits any more."""
    if not kept.set_running_or_notify_cancel():
        return
    if commitment is not None:
        kept.set_result(commitment)
    else:
        kept.set_exception(error)
