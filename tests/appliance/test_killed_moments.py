"""kill -9 of the authority between an entry and its deed: the next authority does what was entered.

The authority that dies is a process of its own; its launcher lives on in this one.
"""

from __future__ import annotations

import asyncio

import pytest
from authority_world import dies, world  # type: ignore[import-not-found]

from cloister.api import ClientRequest, JobState

DYING = """
import asyncio, os, sys
from concurrent.futures import Future
from pathlib import Path
from authority_world import PASSPHRASE, PEER, make
from cloister.api import LockRequest
from cloister.errors import LedgerUnavailable
from cloister.home import Home

what, moment, subject = sys.argv[2:]
authority = make(Home(Path(sys.argv[1])))
submit = authority.ledger.submit

def die(*_, **__):
    os.kill(os.getpid(), 9)

def die_before(entry, **more):
    return die() if entry.action in ("job.cancel", "client.revoke") else submit(entry, **more)

def refuse(entry, **more):
    refused = Future()
    refused.set_exception(LedgerUnavailable("no"))
    return refused

async def main():
    await authority.start()
    await authority.seal.unlock(PEER, PASSPHRASE)
    if moment == "noted":
        authority.ledger.submit = die_before
    elif moment == "entered":
        authority.recorder._owed.settle = die
    elif moment == "refused":
        authority.ledger.submit = refuse
    authority.launcher.stop = die
    if what == "cancel":
        await authority.queue.cancel(PEER, subject)
    elif what == "cut":
        await authority.lock(PEER, LockRequest(mode="cut"))
    elif what == "revoke":
        await authority.clients.revoke(PEER, subject)
        die()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("what", "moment"), [("cancel", "noted"), ("cancel", "entered"), ("cancel", "told"), ("cut", "told")]
)
def test_a_stop_that_was_asked_for_outlives_a_kill(what: str, moment: str) -> None:
    state = JobState.CANCELLED if what == "cancel" else JobState.INTERRUPTED

    async def inside() -> None:
        async with world() as here:
            job_id = await here.run()
            await here.runs(job_id)
            await dies(here, DYING, what, moment, job_id)
            await here.reaches(job_id, state)
            await here.until(lambda: job_id not in here.authority.queue.known)
            assert await here.running() == []
            assert here.actions().count("job.cancel") == 1
            await here.unlock()
            here.go.touch()
            await here.authority.queue.resume(here.peer, job_id)
            await here.reaches(job_id, JobState.DONE)

    asyncio.run(inside())


@pytest.mark.parametrize("moment", ["noted", "entered", "refused"])
def test_a_revocation_is_kept_and_entered_first_after_a_kill(moment: str) -> None:
    async def inside() -> None:
        async with world() as here:
            issued = await here.authority.clients.issue(here.peer, ClientRequest(name="desk"))
            await dies(here, DYING, "revoke", moment, issued.client.client_id)
            assert here.authority.clients.listed()[0].revoked_at is not None
            last = here.actions()[-2:]
            assert last == ["client.revoke", "authority.start"]
            entries = list(here.authority.ledger.entries(0, 1000))
            revoked = [entry for entry in entries if entry["action"] == "client.revoke"]
            assert [entry["actor"] for entry in revoked] == [here.peer.account]
            assert here.authority.recorder.owed == 0
            await here.restart()
            assert here.actions().count("client.revoke") == 1

    asyncio.run(inside())
