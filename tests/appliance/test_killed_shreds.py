"""kill -9 of the authority while it shreds or backs up: what was entered is finished, nothing is half there.

The authority that dies is a process of its own; its launcher lives on in this one.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pyrage
import pytest
from authority_world import World, dies, world  # type: ignore[import-not-found]
from sqlalchemy import select

from cloister.appliance.state import BackupRow, ObjectRow, TombstoneRow
from cloister.errors import NotFound, Shredded
from cloister.restoring import Opener, backups_in, restore
from cloister.verifier import verify_log

IDENTITY = pyrage.x25519.Identity.generate()

COMMON = """
import asyncio, base64, itertools, os, sys
from pathlib import Path
from authority_world import PASSPHRASE, PEER, make
from cloister.api import BackupRequest, ObjectKind, ShredRequest
from cloister.appliance.ids import new_id
from cloister.appliance.side import Delivery
from cloister.appliance.state import ObjectRow
from cloister.home import Home
from cloister.vault import ObjectWriter, backup, sign_manifest
import cloister.appliance.shredding as shredding

authority = make(Home(Path(sys.argv[1])))

def die(*_, **__):
    os.kill(os.getpid(), 9)

def stored(name, size):
    # As a job would leave it: key, sealed file, manifest, row.
    object_id = new_id("dataset")
    key = authority.seal.vault.new_data_key(object_id)
    work = authority.home.work / object_id
    writer = ObjectWriter(work, object_id=object_id, kind="dataset", key=key)
    with writer.create("rows.bin") as file:
        file.write(os.urandom(size))
    manifest = writer.finish(created_at="2026-01-01T00:00:00+00:00")
    authority.catalogue.store.adopt(work, manifest)
    with authority.state.change() as change:
        change.session.add(ObjectRow(
            object_id=object_id, version=1, kind="dataset", name=name, created_at=change.now, created_by="x",
            sealed_bytes=manifest.sealed_bytes, manifest_sha256=manifest.sha256, inputs=[], counts={}, details={},
        ))
    return object_id
"""

SHREDS = (
    COMMON
    + """
async def main():
    await authority.start()
    await authority.seal.unlock(PEER, PASSPHRASE)
    moment, count = sys.argv[2], int(sys.argv[3])
    ids = [stored(f"{moment}-{os.getpid()}-{n}", 40_000) for n in range(count)]
    print("made", *ids, flush=True)
    record, real = authority.recorder.record, shredding.shred
    async def dying(actor, action, *objects, **more):
        if moment == "asked" and action == "dataset.shred":
            die()
        if moment == "destroyed" and action == "dataset.shredded":
            die()
        index = await record(actor, action, *objects, **more)
        if moment == "entered" and action == "dataset.shred":
            die()
        if moment == "completed" and action == "dataset.shredded":
            die()
        return index
    authority.recorder.record = dying
    if moment == "buried":
        shredding.shred = die
    if moment == "keys":
        authority.catalogue.store.remove = die
    if moment == "purge":
        type(authority.seal.any_vault.store).purge = die
    for number, object_id in enumerate(ids):
        name = f"{moment}-{os.getpid()}-{number}"
        await authority.shredding.shred(PEER, "dataset", object_id, ShredRequest(confirm=name))
        print("done", object_id, flush=True)
    die()
asyncio.run(main())
"""
)

BACKUPS = (
    COMMON
    + """
async def main():
    await authority.start()
    await authority.seal.unlock(PEER, PASSPHRASE)
    moment, target, recipient = sys.argv[2:]
    for number in range(3):
        stored(f"b{number}-{os.getpid()}", 100_000)
    write = backup._write
    def dying(folder, name, fill, final):
        kind = folder.name if folder.name in ("packs", "objects", "keys") else "index"
        def half(out):
            fill(out)
            if kind == moment:
                die()
        written = write(folder, name, half, final)
        if moment == f"after-{kind}":
            die()
        return written
    backup._write = dying
    request = BackupRequest(where=target, recipients=(recipient,))
    ticket = await authority.backups.ask(PEER, request)
    descriptor = os.open(target, os.O_RDONLY)
    authority.backups.deliver(Delivery(ticket.job.job_id, {"objects": descriptor}))
    while authority.backups._tasks:
        await asyncio.sleep(0.01)
asyncio.run(main())
"""
)


async def cut_off(here: World, script: str, *arguments: str, after: float | None = None) -> list[str]:
    """An authority is killed at its work, and the next one finishes what it was at; what the first one said."""
    _, said = await dies(here, script, *arguments, after=after)
    await here.until(lambda: not here.authority.shredding._unfinished())
    return said


def sound(here: World, said: list[str]) -> None:
    """Everything acknowledged is there, nothing is half there, and the books agree."""
    authority = here.authority
    made = [word for line in said if line.startswith("made") for word in line.split()[1:]]
    done = [line.split()[1] for line in said if line.startswith("done")]
    assert set(done) <= set(made)
    vault, store = authority.seal.any_vault, authority.catalogue.store
    with authority.state.read() as session:
        tombs = {row.object_id: row for row in session.scalars(select(TombstoneRow))}
        rows = {row.object_id: row for row in session.scalars(select(ObjectRow))}
    for object_id in made:
        key = vault.store.data_key(object_id, 1)
        folder = store.folder("dataset", object_id, 1)
        if object_id in tombs:
            assert key is None and not folder.exists() and object_id not in rows
            assert tombs[object_id].shredded_by == here.peer.account
        else:
            assert object_id not in done
            assert key is not None and object_id in rows
            store.check("dataset", object_id, 1, manifest_sha256=rows[object_id].manifest_sha256)
    assert not (store.root / ".removed").exists()
    entries = list(authority.ledger.entries(0, 100_000))
    for object_id, row in tombs.items():
        about = [(e["action"], e["decision"]) for e in entries if object_id in e["objects"]]
        assert ("dataset.shred", "intended") in about
        assert about[-1] == ("dataset.shredded", "done"), (
            "entered before and after, however often it was cut off"
        )
        assert entries[row.ledger_index]["action"] == "dataset.shred"


async def unlocked_and_verified(here: World) -> None:
    await here.unlock()
    here.authority.seal.vault.check()
    here.authority.ledger.flush()
    assert verify_log(here.home.control_ledger, here.authority.ledger.vkey).problems == []


@pytest.mark.parametrize("moment", ["asked", "entered", "buried", "purge", "keys", "destroyed", "completed"])
def test_a_shred_that_was_cut_off_finishes_itself(moment: str) -> None:
    async def inside() -> None:
        async with world() as here:
            said = await cut_off(here, SHREDS, moment, "1")
            object_id = said[0].split()[1]
            sound(here, said)
            with here.authority.state.read() as session:
                assert session.get(TombstoneRow, (object_id, 1)) is not None
            await unlocked_and_verified(here)
            with pytest.raises(NotFound, match="was destroyed: shredded on"):
                here.authority.seal.vault.data_key(object_id)
            with pytest.raises(Shredded):
                here.authority.overview.object("dataset", object_id)

    asyncio.run(inside())


def kill_at_random(times: int, seed: int) -> int:
    """Returns how many shreds were acknowledged."""
    order = random.Random(seed)
    acknowledged = 0

    async def inside() -> None:
        nonlocal acknowledged
        async with world() as here:
            said = []
            for _ in range(times):
                said += await cut_off(here, SHREDS, "random", "12", after=order.uniform(0, 0.6))
                sound(here, said)
            acknowledged = sum(line.startswith("done") for line in said)
            await unlocked_and_verified(here)

    asyncio.run(inside())
    return acknowledged


def test_random_kills_leave_every_shred_whole_or_undone() -> None:
    kill_at_random(2, seed=11)


@pytest.mark.soak
def test_many_random_kills_leave_every_shred_whole_or_undone() -> None:
    done = kill_at_random(70, seed=12)
    print(f"soak: kills=70 shreds_acknowledged={done}")


@pytest.mark.parametrize("moment", ["packs", "after-packs", "objects", "keys", "after-keys", "index"])
def test_a_backup_that_was_cut_off_is_none_and_the_next_one_is(moment: str) -> None:
    async def inside() -> None:
        with tempfile.TemporaryDirectory(prefix="bk") as folder:
            target = Path(folder, "target")
            target.mkdir()
            async with world() as here:
                for kind in ("dataset", "base"):  # they have no manifest, which a pack needs
                    with here.authority.state.change() as change:
                        for row in change.session.scalars(select(ObjectRow).where(ObjectRow.kind == kind)):
                            change.session.delete(row)
                await cut_off(here, BACKUPS, moment, str(target), str(IDENTITY.to_public()))
                assert list(target.glob("*.json")) == []
                with here.authority.state.read() as session:
                    unfinished = session.scalars(select(BackupRow)).all()
                assert bool(unfinished) == (moment in ("keys", "after-keys", "index"))
                assert all(not row.keys_sha256 for row in unfinished)
                with pytest.raises(NotFound):
                    backups_in(target)
                before = {path.name for path in target.rglob("*.tar")}
                await back_up(here, target)
                assert list(target.rglob("*.part")) == []
                assert before - {path.name for path in target.rglob("*.tar")} == set()
                done = restore(target, Path(folder, "h"), Opener(identities=(IDENTITY,)), check=True)
                assert done.objects == 3
                assert list(here.home.work.glob("jb-*")) == []

    asyncio.run(inside())


async def back_up(here: World, target: Path) -> Any:
    from cloister.api import BackupRequest
    from cloister.appliance.side import Delivery

    ticket = await here.authority.backups.ask(
        here.peer, BackupRequest(where=str(target), recipients=(str(IDENTITY.to_public()),))
    )
    descriptor = os.open(target, os.O_RDONLY)
    here.authority.backups.deliver(Delivery(ticket.job.job_id, {"objects": descriptor}))
    await here.until(lambda: not here.authority.backups._tasks)
    job = here.job(ticket.job.job_id)
    assert job.state == "done", job.error
    return job
