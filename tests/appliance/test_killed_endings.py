"""kill -9 of the authority at any moment between a job's start and its end: the next one brings it to one end, once.

A moment is each time that it is about to change something outside of its memory: a file made durable or renamed, the
state, the ledger, the launcher. The launcher lives on, and so does what it has started.
"""

from __future__ import annotations

import asyncio

import pytest
from authority_world import World, dies, world

from cloister.api import JobState

DYING = """
import asyncio, os, sys, threading
from contextlib import contextmanager
from pathlib import Path
from authority_world import PASSPHRASE, PEER, make
from cloister.appliance.state import JobRow
from cloister.home import Home

home, moments, job_id = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
authority = make(Home(home))
left = moments

def moment():
    global left
    if threading.current_thread().name.startswith("ledger-"):
        return  # the ledger's own moments are its own tests', and come when they like
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)

def watched(call):
    def calls(*arguments, **more):
        moment()
        return call(*arguments, **more)
    return calls

def done():
    with authority.state.read() as session:
        return session.get_one(JobRow, job_id).state == "done"

async def main():
    await authority.start()
    change = authority.state.change

    @contextmanager
    def changing():
        moment()
        with change() as one:
            yield one
        moment()

    for name in ("fsync", "rename", "replace", "unlink"):
        setattr(os, name, watched(getattr(os, name)))
    authority.state.change = changing
    authority.ledger.submit = watched(authority.ledger.submit)
    authority.launcher._exchange = watched(authority.launcher._exchange)
    await authority.seal.unlock(PEER, PASSPHRASE)
    while not done():
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    os._exit(0)

asyncio.run(main())
"""


async def ends_once(here: World, job_id: str) -> None:
    await here.reaches(job_id, JobState.DONE)
    await here.until(lambda: job_id not in here.authority.queue.known)
    states = [
        event.data["state"]
        for event in here.authority.state.events_after(0, 100_000)
        if event.kind == "job.state" and event.subject == job_id
    ]
    assert states.count("done") == 1 and states[-1] == "done" and "failed" not in states, states
    assert here.job(job_id).attempts <= 2 and await here.running() == []
    assert job_id not in [sandbox.sandbox_id for sandbox in await here.authority.launcher.list()]
    output = here.home.output_folder(job_id)
    assert not output.exists()
    stored = here.authority.catalogue.store.check("adapter", here.job(job_id).subject, 1)
    assert stored.object_id == here.job(job_id).subject


def killed_at(chosen: list[int]) -> int:
    """How many of these moments came before the end."""

    async def inside() -> int:
        async with world() as here:
            here.go.touch()
            for number, moments in enumerate(chosen):
                here.authority.queue.paused = True
                job_id = await here.run(f"run-{number}")
                died, _ = await dies(here, DYING, str(moments), job_id, may_end=True)
                await here.unlock()
                await ends_once(here, job_id)
                if not died:
                    return number
        return len(chosen)

    return asyncio.run(inside())


def test_a_job_ends_once_also_where_the_authority_is_killed_on_the_way() -> None:
    """As the launcher is asked to start it, as its manifest is written, as its object is in place and nowhere kept."""
    assert killed_at([10, 16, 24]) == 3


@pytest.mark.soak
def test_a_job_ends_once_whenever_the_authority_is_killed() -> None:
    moments = killed_at(list(range(200)))
    assert 25 < moments < 200
    print(f"soak: moments={moments}")
