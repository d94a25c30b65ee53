"""What counts as derived, read off jobs: both ways along a resealing, never along a forgetting."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest
from authority_world import World, world  # type: ignore[import-not-found]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.api import JobState, ObjectKind, ShredRequest
from cloister.appliance.ids import new_id
from cloister.appliance.lineage import lineage, next_version
from cloister.appliance.state import JobRow, ObjectRow
from cloister.errors import NotFound
from cloister.ledger import Entry, Ledger
from cloister.vault.bodies import SealedBody
from cloister.vault.body_store import BodyStore

Version = tuple[str, int]


def job(
    here: World, verb: str, inputs: list[Version], made: Version, state: JobState = JobState.DONE
) -> None:
    with here.authority.state.change() as change:
        row = JobRow(
            job_id=new_id("job"),
            verb=verb,
            state=state,
            subject=made[0],
            output_version=made[1],
            name="x",
            config={"kind": "dataset", "version": made[1]} if verb == "rotate" else {},
            inputs={
                str(n): {"object_id": i, "version": v, "manifest_sha256": "0" * 64}
                for n, (i, v) in enumerate(inputs)
            },
            requested_by="x",
            created_at=change.now,
        )
        change.session.add(row)


def derived(here: World, *roots: Version) -> set[Version]:
    with here.authority.state.read() as session:
        return set(lineage(session, roots).versions)


def in_a_world(test: Any) -> None:
    async def inside() -> None:
        async with world() as here:
            await test(here)

    asyncio.run(inside())


def test_versions_and_what_came_of_each() -> None:
    async def test(here: World) -> None:
        d, a, b = "ds-000000000001", "ad-000000000001", "ad-000000000002"
        m, e = "mm-000000000001", "ev-000000000001"
        job(here, "import", [], (d, 1))
        job(here, "train", [(d, 1), ("bm-000000000001", 1)], (a, 1))
        job(here, "rotate", [(d, 1)], (d, 2))
        job(here, "train", [(d, 2)], (b, 1), JobState.INTERRUPTED)
        job(here, "evaluate", [(a, 1), ("ds-00000000000x", 1)], (e, 1))
        job(here, "rotate", [(a, 1)], (a, 2))
        job(here, "merge", [(a, 2)], (m, 1))
        job(here, "forget", [(d, 2)], (d, 3))
        job(here, "train", [(d, 3)], ("ad-000000000003", 1))
        everything = {(d, 1), (d, 2), (a, 1), (a, 2), (b, 1), (m, 1), (e, 1)}
        assert derived(here, (d, 2)) == everything, "a version sealed anew has the content of the one before"
        assert derived(here, (d, 1)) == everything
        assert derived(here, (d, 3)) == {(d, 3), ("ad-000000000003", 1)}
        assert derived(here, (a, 2)) == {(a, 2), (a, 1), (m, 1), (e, 1)}
        assert derived(here, (m, 1)) == {(m, 1)}
        with here.authority.state.read() as session:
            assert next_version(session, d) == 4

    in_a_world(test)


def test_kept_prompts_go_with_their_model() -> None:
    async def test(here: World) -> None:
        authority = here.authority
        gone, kept = here.stored(ObjectKind.MODEL, "gone"), here.stored(ObjectKind.MODEL, "kept")
        asked = [(model, part) for model in (gone, kept) for part in ("prompt", "answer")]
        bodies = {
            about: SealedBody(bytes([n]) * 32, about[1], 3, b"sealed-%d-" % n * 9, b"capsule-%d-" % n * 9)
            for n, about in enumerate(asked)
        }
        origin = authority.auditing.origins["gateway"]
        signer = Ed25519PrivateKey.generate()
        with (
            closing(BodyStore(here.home.bodies)) as store,
            Ledger.open(here.home.gateway_ledger, origin=origin, signer=signer) as ledger,
        ):
            store.keep(list(bodies.values()), "2026-11-21")
            for (model, part), body in bodies.items():
                ledger.append(
                    Entry(
                        time="2026-11-21T00:00:00.000000+00:00",
                        actor="desk",
                        identified_by="key",
                        action="inference.begin",
                        objects=("dp-000000000001", model),
                        digests={part: body.commitment.hex()},
                    )
                )
            ledger.flush()
        assert (await authority.shredding.plan("model", "gone")).kept_bodies == 2
        done = await authority.shredding.shred(here.peer, "model", "gone", ShredRequest(confirm="gone"))
        assert done.state == "done"
        files = [path.read_bytes() for path in here.home.bodies.iterdir()]
        with closing(BodyStore(here.home.bodies)) as store:
            for (model, _), body in bodies.items():
                if model == kept:
                    assert store.fetch(body.commitment).capsule == body.capsule
                else:
                    with pytest.raises(NotFound, match="was shredded: shredded on"):
                        store.fetch(body.commitment)
                    assert not any(body.capsule in data or body.sealed in data for data in files)
        entry = next(e for e in authority.ledger.entries(0, 1000) if e["action"] == "model.shredded")
        assert entry["details"]["bodies"] == 2
        with authority.state.read() as session:
            assert session.get(ObjectRow, (gone, 1)) is None

    in_a_world(test)
