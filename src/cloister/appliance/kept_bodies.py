"""Prompts and answers that policy kept, of models that are shredded: found through the gateway's ledger.

An entry of an inference names the model and commits to what was kept. Knows which bodies are about a model; it
opens none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from cloister.appliance.auditing import Auditing
from cloister.appliance.revealing import PARTS
from cloister.errors import NotFound
from cloister.home import Home
from cloister.ledger.query import Query
from cloister.vault.body_store import CAPSULES_NAME, BodyStore

PAGE = 1_000


class KeptBodies:
    """One home's bodies, by the model that was asked."""

    def __init__(self, home: Home, auditing: Auditing) -> None:
        self._home = home
        self._auditing = auditing

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
                    for part in PARTS:
                        digest = entry.digests.get(part)
                        if digest is not None and len(digest) == 64:
                            yield bytes.fromhex(digest)
                if not found.more or not found.entries:
                    break
                before = found.entries[0].index
