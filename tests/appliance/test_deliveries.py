"""What came in over the side socket is closed once, and not under who still uses it: its number may be the ledger's."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import socket
import threading
from pathlib import Path

import pytest
from tests.appliance.authority_world import PEER, World, moment, start_launcher

from cloister.api import BackupRequest, BodyRequest, DatasetImport, ImportConfig, JobState, JobTicket
from cloister.appliance.backup_copy import Asked
from cloister.appliance.backups import _to_its_end
from cloister.appliance.revealing import _Reveal
from cloister.appliance.side import CONNECTIONS, Delivery


def test_closed_twice_another_file_with_the_same_number_stays_open(tmp_path: Path) -> None:
    with open(tmp_path / "ledger", "wb") as file:
        # From a number on that nobody else here uses: the lowest that is free may be one that another test left open.
        handed = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 700)
        delivery = Delivery("jb-000000000000", {"output": handed})
        delivery.close()
        theirs = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, handed)
    assert theirs == handed
    delivery.close()
    assert os.write(theirs, b"entry") == 5
    os.close(theirs)


@moment
async def test_one_account_fills_this_process_with_no_more_than_its_share(here: World) -> None:
    def connected() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(str(here.home.side_socket))
        return connection

    held = [connected() for _ in range(CONNECTIONS)]
    await here.until(lambda: len(here.authority.side._connections) == CONNECTIONS)
    with connected() as another:
        answer = json.loads(await asyncio.to_thread(another.recv, 4096))
    assert (answer["ok"], answer["code"]) == (False, "too-many-requests")
    held.pop().close()
    await here.until(lambda: len(here.authority.side._connections) < CONNECTIONS)
    with connected() as another:
        another.sendall(b"{}\n")
        answer = json.loads(await asyncio.to_thread(another.recv, 4096))
    assert answer["code"] == "invalid-input"
    for connection in held:
        connection.close()
    await here.until(lambda: not here.authority.side._held)


@moment
async def test_a_reveal_that_is_dropped_before_it_began_lets_go_of_its_pipe(here: World) -> None:
    reading, writing = os.pipe()
    revealing = here.authority.revealing
    request = BodyRequest(ledger="gateway", index=0)
    revealing._reveals["jb-000000000000"] = _Reveal(PEER, request, "prompt", b"")
    revealing.deliver(Delivery("jb-000000000000", {"output": writing}))
    revealing._drop("jb-000000000000")
    await here.until(lambda: select.select([reading], [], [], 0)[0])  # whoever reads would else wait for ever
    assert os.read(reading, 1) == b""
    os.close(reading)


@moment
async def test_a_backup_that_is_cut_off_waits_for_the_thread_that_writes_to_its_folder(here: World) -> None:
    begun, go_on, looked = threading.Event(), threading.Event(), list[os.stat_result]()
    folder = os.open(here.home.root, os.O_RDONLY | os.O_DIRECTORY)
    delivery = Delivery("jb-000000000000", {"objects": folder})
    asked = Asked(PEER, BackupRequest(where="/there"), [], threading.Event())

    def copying() -> None:
        begun.set()
        go_on.wait(120)
        looked.append(os.stat(f"/proc/self/fd/{folder}"))

    async def guarded() -> None:
        try:
            await _to_its_end(asked, copying)
        finally:
            delivery.close()

    task = asyncio.create_task(guarded())
    await asyncio.to_thread(begun.wait, 120)
    task.cancel()
    await here.until(asked.stopped.is_set)
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert looked and not delivery.descriptors


async def asked(here: World, name: str) -> JobTicket:
    config = ImportConfig(source_name="x", system_prompt="x")
    return await here.authority.requests.import_dataset(PEER, DatasetImport(name=name, config=config))


async def hand_over(here: World, ticket: JobTicket, source: Path, token: str | None = None) -> bool:
    """As a client does; whether it was taken."""

    def work() -> bool:
        with source.open("rb") as file, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(here.home.side_socket))
            message = {"token": token or ticket.token, "roles": ["source"]}
            socket.send_fds(connection, [json.dumps(message).encode() + b"\n"], [file.fileno()])
            return bool(json.loads(connection.recv(4096))["ok"])

    return await asyncio.to_thread(work)


@moment
async def test_whatever_becomes_of_a_delivery_nothing_of_it_stays_open(here: World) -> None:
    source = here.home.root / "source"
    source.write_bytes(b"rows")

    def open_here() -> int:
        return sum(path.resolve() == source for path in Path("/proc/self/fd").iterdir() if path.is_symlink())

    queue = here.authority.queue
    ticket = await asked(here, "refused")
    assert not await hand_over(here, ticket, source, token="another")
    assert open_here() == 0, "its token was not known"

    queue.paused = True
    assert await hand_over(here, ticket, source) and open_here() == 1
    assert not await hand_over(here, ticket, source) and open_here() == 1, "the token was used"
    await queue.cancel(PEER, ticket.job.job_id)
    assert open_here() == 0, "cancelled in the queue"

    queue.paused = False
    done = await asked(here, "done")
    assert await hand_over(here, done, source)
    await here.runs(done.job.job_id)
    await here.until(lambda: open_here() == 0)  # its sandbox has its own
    here.go.touch()
    await here.reaches(done.job.job_id, JobState.DONE)

    queue.paused = True
    failing = await asked(here, "failing")
    assert await hand_over(here, failing, source)
    await here.end_launcher()
    queue._spawn(failing.job.job_id, queue._start_and_follow(failing.job.job_id, None))
    await here.until(lambda: here.job(failing.job.job_id).state in (JobState.FAILED, JobState.INTERRUPTED))
    await here.until(lambda: open_here() == 0)
    here.launcher, here.serving = start_launcher(here.home)
    await here.until(lambda: here.home.launcher_socket.exists())

    last = await asked(here, "last")
    assert await hand_over(here, last, source) and open_here() == 1
    await here.restart()
    assert open_here() == 0, "an authority that ends"
