"""Prompts and answers that policy kept, found through the ledgers' entries.

An entry of an inference names the model and commits to what was kept. Knows which body an entry commits to and
which are about a model; it opens none, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from cloister.api import BodyRequest, LedgerEntry
from cloister.appliance.auditing import Auditing
from cloister.errors import NotFound
from cloister.home import Home
from cloister.ledger.query import Query
from cloister.vault.body_store import CAPSULES_NAME, BodyStore, Kept

PAGE = 1_000
PARTS = ("prompt", "answer", "body")
"""What the digest of a kept body is called in an entry."""


class KeptBodies:
    """One home's bodies, by the entry that commits to one and by the model that was asked."""

    def __init__(self, home: Home, auditing: Auditing) -> None:
        self._home = home
        self._auditing = auditing

    def committed(self, request: BodyRequest) -> tuple[str, bytes]:
        """Which body an entry commits to: what the entry calls it, and the commitment. Errors: NotFound."""
        for found in _commitments(self._auditing.entry(request.ledger, request.index)):
            return found
        raise NotFound(
            f"entry {request.index} of the {request.ledger} ledger has no body",
            remedy="Bodies are kept only where `ledger: bodies:` in the settings says so.",
        )

    def fetch(self, commitment: bytes) -> Kept:
        """A body as it is kept, sealed. Errors: NotFound where it was shredded, Tampered."""
        with closing(BodyStore(self._home.bodies)) as store:
            return store.fetch(commitment)

    def is_of(self, model: str, commitment: bytes) -> bool:
        """Whether a gateway's entry about this model commits to that. Other entries, of a reveal, name no model."""
        return commitment in self._commitments([model])

    def oldest(self, model: str, before: str) -> str | None:
        """The day (ISO 8601) of the oldest body of this model that can still be opened, of those before that day."""
        if not self._any([model]):
            return None
        with closing(BodyStore(self._home.bodies)) as store:
            return min(store.days_of(self._commitments([model]), before), default=None)

    def count(self, models: Sequence[str]) -> int:
        """How many bodies of these models can still be opened. Errors: Tampered."""
        if not self._any(models):
            return 0
        with closing(BodyStore(self._home.bodies)) as store:
            return store.count_of(self._commitments(models))

    def shred(self, models: Sequence[str], note: str) -> int:
        """Destroy them; returns how many there were. Asked again, it finds none. Errors: OutOfSpace, Tampered."""
        if not self._any(models):
            return 0
        with closing(BodyStore(self._home.bodies)) as store:
            return store.shred_these(note, self._commitments(models))

    def _any(self, models: Sequence[str]) -> bool:
        return bool(models) and (self._home.bodies / CAPSULES_NAME).exists()

    def _commitments(self, models: Sequence[str]) -> Iterator[bytes]:
        """What the gateway's entries about these models commit to."""
        for model in models:
            before: int | None = None
            while True:
                try:
                    found = self._auditing.search("gateway", Query(object=model, before=before), PAGE)
                except NotFound:  # no gateway ever ran
                    return
                for entry in found.entries:
                    for _, commitment in _commitments(entry):
                        yield commitment
                if not found.more or not found.entries:
                    break
                before = found.entries[0].index


def _commitments(entry: LedgerEntry) -> Iterator[tuple[str, bytes]]:
    """The parts that an entry commits to."""
    for part in PARTS:
        digest = entry.digests.get(part)
        if digest is not None and len(digest) == 64:
            yield part, bytes.fromhex(digest)
