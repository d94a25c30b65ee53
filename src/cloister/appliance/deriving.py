"""Datasets made of datasets. What rows are chosen by passes through in memory, on its way to the worker; state and
ledger get the rest of the plan, and a keyed digest of that."""

from __future__ import annotations

from typing import Any

from cloister.api import DeriveConfig, DeriveRequest, JobTicket, ObjectKind
from cloister.appliance import records
from cloister.appliance.asking import Asking
from cloister.appliance.catalogue import find, refuse_taken_name
from cloister.appliance.classifying import classify
from cloister.appliance.facts import data_class
from cloister.appliance.peer import Peer
from cloister.errors import InvalidInput
from cloister.policy.things import CLASSIFICATIONS

DERIVE = "derive"


class Deriving(Asking):
    """Asks workers for datasets made of others."""

    async def derive(self, peer: Peer, reference: str, request: DeriveRequest) -> JobTicket:
        """Queue a new dataset; with corrections it waits for their descriptor.

        It is kept at least as strictly as its parents.
        Errors: NotFound, Conflict, InvalidInput, Locked, LedgerUnavailable, SandboxUnavailable.
        """
        await self._refuse_start()
        with self._state.read() as session:
            refuse_taken_name(session, ObjectKind.DATASET, request.name)
            parents = [find(session, ObjectKind.DATASET, one) for one in (reference, *request.others)]
            least = data_class(session, {row.object_id for row in parents})
        if len({row.object_id for row in parents}) != len(parents):
            raise InvalidInput("a dataset is merged with itself", where=request.name)
        classification = request.classification or least
        if CLASSIFICATIONS.index(classification) < CLASSIFICATIONS.index(least):
            raise InvalidInput(
                f"what is made of {least} data is {least}, or stricter",
                where=request.name,
                remedy="`cloister dataset classify` makes it milder afterwards, with an approval.",
            )
        whole = request.config.model_dump(mode="json")
        chosen = whole["chosen"]
        kept: dict[str, Any] = {
            **whole,
            "chosen": self._seal.config_digest(chosen) if any(chosen.values()) else None,
        }
        inputs = {f"other-{n:02}" if n else "dataset": row for n, row in enumerate(parents)}
        await self._recorder.record(
            peer,
            "dataset.derive",
            *(row.object_id for row in parents),
            digests={
                "config": self._seal.config_digest(kept),
                **{f"manifest-{row.object_id}": row.manifest_sha256 for row in parents},
            },
            name=request.name,
            classification=classification,
            steps=steps_of(request.config, merged=len(parents) > 1),
        )
        with self._state.change() as change:
            refuse_taken_name(change.session, ObjectKind.DATASET, request.name)
            least = data_class(change.session, {row.object_id for row in parents})
            row = self._queue.add(
                change,
                peer.account,
                DERIVE,
                request.name,
                kept,
                inputs,
                waits_for_source=request.config.corrections,
                unwritten={"chosen": chosen},
            )
            stricter = max(classification, least, key=CLASSIFICATIONS.index)
            classify(change, row.subject or "", stricter, peer.account)
            job = records.job(row)
        return self._ticket(job, peer) if request.config.corrections else JobTicket(job=job)


def steps_of(config: DeriveConfig, *, merged: bool) -> list[str]:
    """What a plan does, in words without content."""
    chosen = config.chosen
    said = {
        "merge": merged,
        f"side: {config.side}": config.side != "all",
        "rows by number": bool(config.rows or config.without),
        "rows by length": config.min_characters > 0 or config.max_characters is not None,
        "rows by label": bool(chosen.labels),
        "rows by group": bool(chosen.groups),
        "rows by pattern": bool(chosen.matching or chosen.not_matching),
        f"dedupe: {config.dedupe}": config.dedupe is not None,
        f"sample: {config.sample}": config.sample is not None,
        "corrections": config.corrections,
        f"personal data: {config.personal}" + (f" ({', '.join(config.types)})" if config.types else ""): (
            config.personal is not None
        ),
    }
    return [step for step, done in said.items() if done]
