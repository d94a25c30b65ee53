"""The ledgers as the authority reads them: its own while it writes it, the gateway's from its files.

Answers searches and live followers through an index that it keeps beside each. It decides nothing about
who may ask.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import msgspec
import structlog

from cloister.api import LedgerEntry, LedgerMatches, LogState
from cloister.errors import CloisterError, NotFound
from cloister.home import Home
from cloister.ledger import Ledger
from cloister.ledger.export import LogFolder
from cloister.ledger.index import Index, IndexFault
from cloister.ledger.query import Query, search
from cloister.ledger.reading import CheckedReader, LogFiles, Snapshot
from cloister.ledger.tiles import WIDTH, parse_tile_path
from cloister.logs import place

log = structlog.get_logger()

INDEX_EVERY_S = 5.0
FOLLOW_EVERY_S = 0.2
KEEP_ALIVE_S = 5.0
BATCH = 500


class Auditing:
    """Snapshots, searches and followers of this home's ledgers, by name: `control` and `gateway`."""

    def __init__(self, home: Home, ledger: Ledger, gateway_origin: str) -> None:
        self._home = home
        gateway = LogFiles(home.gateway_ledger, gateway_origin)
        self.origins: Mapping[str, str] = {"control": ledger.origin, "gateway": gateway_origin}
        self._snapshots: Mapping[str, Callable[[], Snapshot]] = {
            "control": ledger.snapshot,
            "gateway": gateway.snapshot,
        }
        self._indices = {
            name: Index(home.ledger_index / f"{name}.db", origin) for name, origin in self.origins.items()
        }
        self._closing = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def snapshot(self, name: str) -> Snapshot:
        """A ledger as it is now. Errors: NotFound, Tampered."""
        if name not in self._snapshots:
            raise NotFound("there is no such ledger", where=name[:64], remedy="It is control or gateway.")
        return self._snapshots[name]()

    def search(self, name: str, query: Query, limit: int, *, indexed: bool = True) -> LedgerMatches:
        """The newest matches. Errors: NotFound, Tampered."""
        snapshot = self.snapshot(name)
        reader = CheckedReader(snapshot)
        answer = search(reader, self._indices[name] if indexed else None, query, limit)
        entries = [ledger_entry(match.index, match.entry) for match in answer.matches]
        return LedgerMatches(entries=entries, more=answer.more, size=snapshot.size, indexed=answer.indexed)

    def entry(self, name: str, index: int) -> LedgerEntry:
        """One entry, checked. Errors: NotFound, Tampered."""
        for found in CheckedReader(self.snapshot(name)).entries(index, index + 1):
            return ledger_entry(index, found)
        raise NotFound(f"the ledger has no entry {index}", where=name)

    def log(self, name: str) -> LogState:
        """What a copy of a ledger needs beside its tiles. Errors: NotFound where nothing is signed; Tampered."""
        source = LogFolder(self._home.ledger(name))
        key = source.key()
        if key is None:
            raise NotFound("nothing in this ledger is signed yet", where=name)
        head, tail = source.newest()
        return LogState(
            vkey=str(key),
            checkpoint=head.signed_note or "",
            tail=[base64.b64encode(entry).decode() for entry in tail],
            cosigned=source.cosigned(),
        )

    def tile(self, name: str, path: str) -> bytes:
        """A tile or bundle of the signed tree, by its path in tlog-tiles. Errors: NotFound, Tampered."""
        parsed = parse_tile_path(path)
        size = self.snapshot(name).tree.size
        if parsed is not None:
            level, index, width = parsed
            if index * WIDTH + width <= size >> (8 * (level or 0)):
                return LogFolder(self._home.ledger(name)).tiles.raw(level, index, width)
        raise NotFound("the signed tree has no such tile", where=name)

    async def follow(self, name: str, after: int, query: Query) -> AsyncIterator[LedgerEntry | None]:
        """Entries from index `after` on as they become durable, for ever; None as a sign of life.

        Errors: NotFound at once; Tampered.
        """
        position, quiet = after, 0.0
        snapshot = await asyncio.to_thread(self.snapshot, name)
        while True:
            if snapshot.size > position:
                stop = min(position + BATCH, snapshot.size)
                found = await asyncio.to_thread(lambda: list(_matching(snapshot, position, stop, query)))  # noqa: B023
                for entry in found:
                    yield entry
                position = stop
                quiet = 0.0 if found else quiet
                continue
            await asyncio.sleep(FOLLOW_EVERY_S)
            quiet += FOLLOW_EVERY_S
            if quiet >= KEEP_ALIVE_S:
                quiet = 0.0
                yield None
            snapshot = await asyncio.to_thread(self.snapshot, name)

    # --- its life --------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_indices())

    async def stop(self) -> None:
        self._closing.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for index in self._indices.values():
            index.close()

    async def _keep_indices(self) -> None:
        while True:
            for name in self._indices:
                await asyncio.to_thread(self._catch_up, name)
            await asyncio.sleep(INDEX_EVERY_S)

    def _catch_up(self, name: str) -> None:
        """Searches pass over an index that cannot be kept, so nothing is lost where this fails."""
        try:
            reader = CheckedReader(self.snapshot(name))
            self._indices[name].catch_up(reader, stop=self._closing.is_set)
        except IndexFault as fault:
            log.warning("ledger.index", ledger=name, cause=str(fault))
            self._indices[name].discard()
        except CloisterError as error:
            if not isinstance(error, NotFound):
                log.error("ledger.index", ledger=name, cause=error.message)
        except Exception as error:
            log.error("ledger.index", ledger=name, cause=place(error))


def ledger_entry(index: int, entry: bytes) -> LedgerEntry:
    """An entry as clients read it."""
    return LedgerEntry(index=index, **json.loads(entry))


def _matching(snapshot: Snapshot, start: int, stop: int, query: Query) -> Iterator[LedgerEntry]:
    for index, entry in enumerate(CheckedReader(snapshot).entries(start, stop), start):
        if query.matches(msgspec.json.decode(entry)):
            yield ledger_entry(index, entry)
