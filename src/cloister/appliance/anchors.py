"""Anchors: the control ledger states the gateway ledger's tree head, each minute that it has grown.

So the gateway's past is as safe as the control ledger's: whoever checks that finds a gateway ledger that is
missing, rolled back or forked. Reads the gateway's files, and never writes them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from cloister.appliance.recorder import Recorder
from cloister.errors import CloisterError
from cloister.home import Home
from cloister.ledger import Ledger
from cloister.ledger.proof import read_head, read_vkey
from cloister.ledger.tiles import WIDTH, TileStore, Tree
from cloister.verifier import VerificationError, parse_json

log = structlog.get_logger()

ACTION = "ledger.anchor"
EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Head:
    """A tree head that was anchored, or is to be."""

    origin: str
    size: int
    root: bytes
    vkey: str


class Anchors:
    """Anchors one other ledger of a home. `problem` says what is wrong with it, or is None."""

    def __init__(self, home: Home, recorder: Recorder, *, every_s: float = EVERY_S) -> None:
        self._root = home.gateway_ledger
        self._recorder = recorder
        self._every_s = every_s
        self._last: Head | None = None
        self._known = False
        self._told: tuple[int, bytes] | None = None
        self.problem: str | None = None

    async def run(self) -> None:
        """Step each minute, for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            with contextlib.suppress(CloisterError, OSError):  # tried again in a minute
                await self.step()

    async def step(self) -> bool:
        """Anchor the head if it is new; returns whether it was. Errors: LedgerUnavailable, OutOfSpace, Tampered."""
        if not self._known:
            self._last = await asyncio.to_thread(_last_anchor, self._recorder.ledger)
            self._known = True
        head = await asyncio.to_thread(self._read)
        last = self._last
        if head is None:
            self.problem = None if last is None else "the gateway's ledger is gone"
            return False
        if last is not None and (head.origin, head.size, head.root, head.vkey) == (
            last.origin,
            last.size,
            last.root,
            last.vkey,
        ):
            self.problem = None
            return False
        if last is not None and (what := await asyncio.to_thread(self._contradiction, last, head)):
            self.problem = what
            await self._tell(head, what)
            return False
        self.problem = None
        await self._recorder.record(
            None,
            ACTION,
            digests={"root": head.root.hex()},
            origin=head.origin,
            size=head.size,
            vkey=head.vkey,
        )
        self._last = head
        return True

    def _read(self) -> Head | None:
        if not (self._root / "vkey").exists():
            return None
        key = read_vkey(self._root)
        head = read_head(self._root / "checkpoint", key)
        return None if head is None else Head(key.name, head.size, head.root, str(key))

    def _contradiction(self, last: Head, head: Head) -> str | None:
        if (head.origin, head.vkey) != (last.origin, last.vkey):
            return "the gateway's ledger has another name or key than the one anchored before"
        if head.size < last.size:
            return f"the gateway's ledger was rolled back: {last.size} entries were anchored, {head.size} are left"
        if Tree.load(TileStore(self._root), last.size).root() != last.root:
            return f"the gateway's ledger was forked: it does not continue its anchored {last.size} entries"
        return None

    async def _tell(self, head: Head, what: str) -> None:
        """Enter a contradiction, once for each head that shows it."""
        if self._told != (head.size, head.root):
            log.error("ledger.contradiction", problem=what)
            digests = {"root": head.root.hex()}
            await self._recorder.record(
                None, "ledger.contradiction", digests=digests, reason=what, origin=head.origin, size=head.size
            )
            self._told = (head.size, head.root)


def _last_anchor(ledger: Ledger) -> Head | None:
    """The newest anchor in the control ledger, searched from its end."""
    for entry in _backwards(ledger):
        if b'"ledger.anchor"' not in entry:
            continue
        with contextlib.suppress(VerificationError, KeyError, TypeError, ValueError):
            document = parse_json(entry)
            if document["action"] == ACTION:
                details = document["details"]
                root = bytes.fromhex(document["digests"]["root"])
                return Head(str(details["origin"]), int(details["size"]), root, str(details["vkey"]))
    return None


def _backwards(ledger: Ledger) -> Iterator[bytes]:
    stop = ledger.size
    while stop:
        start = (stop - 1) // WIDTH * WIDTH
        yield from reversed(list(ledger.raw_entries(start, stop)))
        stop = start
