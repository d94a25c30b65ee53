"""Many jobs of two people, workers and `cloisterd` killed at random: each ends once, with its entries, in its turn."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from authority_world import PASSPHRASE, PEER, World, make, program, quick_passphrases
from tests.appliance.role_accounts import GROUP, as_account, made_accounts, needs_root

from cloister import embedded
from cloister.api import FINAL_STATES, Event, JobState, ObjectKind, RunRequest
from cloister.appliance.state import ClassificationRow
from cloister.client import Client
from cloister.errors import CloisterError
from cloister.home import Home
from cloister.policy.cedar import ROLES
from cloister.verifier import verify_log

TRAINERS = ("trainer", "second")
SLOTS = 2


@dataclass(frozen=True)
class Asked:
    """A job as the order knows it: whose, how urgent, and which of all that were asked for."""

    account: str
    priority: int
    number: int


@dataclass
class Played:
    """What was asked for and done to it. `memory` is the resident memory of each authority, in MiB, as it went on."""

    asked: dict[str, Asked]
    workers_killed: int = 0
    cancelled: set[str] = field(default_factory=set)
    """Jobs whose cancellation was accepted."""
    memory: list[list[float]] = field(default_factory=list)

    @property
    def grown(self) -> float:
        """The most that any authority has grown by since it was unlocked."""
        return max(max(life) - life[0] for life in self.memory)


class Site:
    """A home whose launcher and authority are processes of their own, shared by accounts with roles."""

    def __init__(self, root: Path, accounts: dict[str, str]) -> None:
        self.home = Home(root / "home")
        self.home.make()
        self.accounts = accounts
        settings: dict[str, Any] = {
            "sandbox": "none",
            "unencrypted_swap": "allow",
            "access": {"roles": {role: GROUP.format(role) for role in ROLES}},
            "queue": {"devices": "cpu", "heavy_slots": SLOTS, "resume_limit": 1000, "memory_reserve_gib": 0},
            "api": {"requests_per_s": 10_000, "burst": 100_000},
        }
        self.home.settings_file.write_text(json.dumps(settings))
        (self.home.root / "lines").write_text("3")
        command = [sys.executable, "-m", "cloister.launcher", "--home", str(self.home.root)]
        self.launcher = subprocess.Popen(
            [*command, "--sandbox", "none", "--program", *program(self.home)], stderr=subprocess.DEVNULL
        )
        while not embedded.listener_pid(self.home.launcher_socket):
            assert self.launcher.poll() is None
            time.sleep(0.01)
        asyncio.run(self._furnish())

    async def _furnish(self) -> None:
        """A vault, and a dataset and a base that only the state knows."""
        authority = make(self.home)
        await authority.start()
        with quick_passphrases():
            await authority.seal.initialise(PEER, PASSPHRASE)
        here = World(self.home, authority, asyncio.ensure_future(asyncio.sleep(0)), launcher=None)  # type: ignore[arg-type]
        here.stored(ObjectKind.BASE, "base")
        dataset = here.stored(ObjectKind.DATASET, "rows")
        with authority.state.change() as change:
            change.session.add(
                ClassificationRow(object_id=dataset, classification="internal", set_at=change.now, set_by="x")
            )
        await authority.stop()

    def as_(self, who: str, work: Any) -> Any:
        def inside() -> Any:
            with Client(self.home.authority_socket) as client:
                return work(client)

        return as_account(self.accounts[who], inside)

    @property
    def pid(self) -> int:
        pid = embedded.listener_pid(self.home.authority_socket)
        assert pid is not None
        return pid

    def start(self) -> int:
        """Start the authority and unlock it. Returns its process."""
        embedded.start(self.home, gateway=False)
        self.as_("admin", lambda client: client.unlock(PASSPHRASE))
        return self.pid

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        embedded.await_end(pid)

    def states(self) -> dict[str, str]:
        with closing(sqlite3.connect(f"file:{self.home.state}?mode=ro", uri=True)) as database:
            return dict(database.execute("SELECT job_id, state FROM jobs").fetchall())

    def errors(self) -> dict[str, str]:
        """What jobs that ended badly say."""
        with closing(sqlite3.connect(f"file:{self.home.state}?mode=ro", uri=True)) as database:
            found = database.execute(
                "SELECT job_id, state, error FROM jobs WHERE error IS NOT NULL"
            ).fetchall()
        return {job_id: f"{state}: {error}" for job_id, state, error in found if state in FINAL_STATES}

    def workers(self) -> list[int]:
        """What the process that builds the sandboxes has started."""
        builder = embedded.listener_pid(self.home.launcher_socket)
        children = Path(f"/proc/{builder}/task/{builder}/children")
        return [int(pid) for pid in children.read_text().split()]

    def stop(self) -> None:
        embedded.stop(self.home)
        self.launcher.wait(120)


@contextmanager
def site() -> Iterator[Site]:
    both = ["trainer", "operator"]  # who may put a run of theirs before others
    with (
        made_accounts({"trainer": both, "second": both}) as accounts,
        TemporaryDirectory(prefix="mj") as folder,
    ):
        Path(folder).chmod(0o711)
        here = Site(Path(folder), accounts)
        try:
            yield here
        finally:
            here.stop()


def resident(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def ask(here: Site, jobs: int, generator: random.Random) -> dict[str, Asked]:
    """Both people ask for their share of runs, each of some priority, while none can end yet."""
    asked: dict[str, Asked] = {}
    for who in TRAINERS:
        wanted = [generator.choice([-1, 0, 0, 0, 1]) for _ in range(jobs // len(TRAINERS))]

        def start(client: Client, who: str = who, wanted: list[int] = wanted) -> list[str]:
            requests = (
                RunRequest(
                    name=f"{who}-{number}", dataset="rows", base="base", evaluate=None, priority=priority
                )
                for number, priority in enumerate(wanted)
            )
            return [client.start_run(request).train_job.job_id for request in requests]

        for job_id, priority in zip(here.as_(who, start), wanted, strict=True):
            asked[job_id] = Asked(who, priority, len(asked))
    return asked


def play(here: Site, jobs: int, kills: int, restarts: int, cancels: int) -> Played:
    """Jobs to their ends, with so many workers killed, authorities killed and jobs cancelled on the way. The last
    quarter of the jobs waits until all that was done to them: they may end quicker than it can be."""
    generator = random.Random(jobs)
    pid = here.start()
    told = Played(ask(here, jobs, generator))
    told.memory.append([resident(pid)])
    at = {name: generator.sample(range(1, jobs * 3 // 4), count) for name, count in
          (("worker", kills), ("authority", restarts), ("cancel", cancels))}  # fmt: skip
    go = here.home.root / "go"
    go.touch()
    deadline = time.monotonic() + 120 + 5 * jobs
    while True:
        states = here.states()
        ended = sum(states[job_id] in FINAL_STATES for job_id in told.asked)
        if ended == len(told.asked):
            break
        assert time.monotonic() < deadline, Counter(states.values())
        due = [moment for moments in at.values() for moment in moments if moment <= ended]
        if due and len(told.asked) - ended <= jobs // 4:
            go.unlink(missing_ok=True)
        else:
            go.touch()
        time.sleep(generator.uniform(0.005, 0.05))
        told.memory[-1].append(resident(pid))
        if any(moment <= ended for moment in at["worker"]) and (found := here.workers()):
            with suppress(ProcessLookupError):
                os.kill(generator.choice(found), signal.SIGKILL)
            at["worker"].remove(min(at["worker"]))
            told.workers_killed += 1
        elif any(moment <= ended for moment in at["authority"]):
            at["authority"].remove(min(at["authority"]))
            here.kill(pid)
            pid = here.start()
            told.memory.append([resident(pid)])
        elif any(moment <= ended for moment in at["cancel"]):
            at["cancel"].remove(min(at["cancel"]))
            job_id = generator.choice([one for one in told.asked if states[one] not in FINAL_STATES])
            if here.as_(told.asked[job_id].account, partial(cancel, job_id)):
                told.cancelled.add(job_id)
    here.as_("admin", lambda client: client.flush_ledger())
    end = time.monotonic() + 120
    while here.workers():
        assert time.monotonic() < end
        time.sleep(0.05)
    return told


def cancel(job_id: str, client: Client) -> bool:
    try:
        client.cancel_job(job_id)
    except CloisterError:  # it has just ended
        return False
    return True


def books(home: Home) -> tuple[list[dict[str, Any]], list[Event]]:
    """Every entry and every event, read once all processes have ended."""

    async def read() -> tuple[list[dict[str, Any]], list[Event]]:
        authority = make(home)
        await authority.start()
        try:
            entries = list(authority.ledger.entries(0, 1_000_000))
            return entries, authority.state.events_after(0, 1_000_000)
        finally:
            await authority.stop()

    return asyncio.run(read())


def check(
    states: dict[str, str], entries: list[dict[str, Any]], events: list[Event], asked: set[str]
) -> None:
    """Each job has one final state, was told of once, and has the entries of what became of it."""
    by_job: dict[str, Counter[str]] = {job_id: Counter() for job_id in asked}
    for entry in entries:
        for job_id in asked & set(entry["objects"]):
            by_job[job_id][entry["action"]] += 1
    turns = [event for event in events if event.kind == "job.state" and event.subject in asked]
    finals = Counter(event.subject for event in turns if event.data["state"] in FINAL_STATES)
    starts = Counter(event.subject for event in turns if event.data["state"] == JobState.RUNNING)
    for job_id in asked:
        said, state = by_job[job_id], states[job_id]
        assert finals[job_id] == 1, (job_id, finals[job_id])
        # An entry is there before what it tells of: cut off between them, it is entered again.
        assert said["job.train"] >= starts[job_id]
        if state == JobState.DONE:
            assert said["job.done"] >= 1 and said["job.interrupted"] >= starts[job_id] - 1
        else:
            assert state == JobState.CANCELLED and said["job.cancel"] >= 1 and not said["job.done"]


def check_cancelled(states: dict[str, JobState], entries: list[dict[str, Any]], told: Played) -> None:
    """Who was cancelled had been asked to be; who was asked to and is done was just then: it was not begun anew."""
    assert {job_id for job_id in told.asked if states[job_id] == JobState.CANCELLED} <= told.cancelled
    for job_id in told.cancelled:
        if states[job_id] == JobState.DONE:
            said = [entry["action"] for entry in entries if job_id in entry["objects"]]
            assert "job.train" not in said[said.index("job.cancel") :], job_id


def passed_over(events: list[Event], asked: dict[str, Asked]) -> list[tuple[str, str]]:
    """Starts against the rule: (what started, what should have before it).

    Decided on together, two starts may be told of in either order, and what comes back into the queue meanwhile comes
    too late: only what has seen two starts go by, and does not start with the next two, was passed over.
    """
    told = [event for event in events if event.kind == "job.state" and event.subject in asked]
    begun = [event.subject for event in told if event.data["state"] == JobState.RUNNING]
    waiting: dict[str, int] = {}
    running: set[str] = set()
    found = []
    number = 0
    for event in told:
        job_id = str(event.subject)
        waiting.pop(job_id, None)
        running.discard(job_id)
        if event.data["state"] == JobState.QUEUED:
            waiting[job_id] = number
        elif event.data["state"] == JobState.RUNNING:
            mine = asked[job_id]
            has = Counter(asked[one].account for one in running)
            for other in (one for one, since in waiting.items() if since <= number - SLOTS):
                its = asked[other]
                same = its.priority == mine.priority
                before = its.priority > mine.priority or (
                    same and its.account == mine.account and its.number < mine.number
                )
                turn = same and has[its.account] < has[mine.account]
                if turn or (before and other not in begun[number + 1 : number + 1 + SLOTS]):
                    found.append((job_id, other))
            number += 1
            running.add(job_id)
    return found


def whole(jobs: int, kills: int, restarts: int, cancels: int) -> tuple[Played, Counter[str]]:
    with site() as here:
        told = play(here, jobs, kills, restarts, cancels)
        here.stop()
        states = here.states()
        folder = here.home.control_ledger
        assert not verify_log(folder, (folder / "vkey").read_text().strip()).problems
        entries, events = books(here.home)
        assert not here.errors()
        check(states, entries, events, set(told.asked))
        check_cancelled(states, entries, told)
        assert not passed_over(events, told.asked)
        return told, Counter(states[job_id] for job_id in told.asked)


@needs_root
def test_two_dozen_jobs_with_kills_end_once_each() -> None:
    told, states = whole(jobs=24, kills=5, restarts=2, cancels=2)
    assert states[JobState.DONE] + states[JobState.CANCELLED] == 24
    assert len(told.memory) == 3 and told.grown < 32


@needs_root
@pytest.mark.soak
def test_five_hundred_jobs_with_kills_end_once_each() -> None:
    told, states = whole(jobs=500, kills=150, restarts=20, cancels=15)
    first, last = max(told.memory[0]), max(told.memory[-1])
    print(
        f"soak: jobs=500 people={len(TRAINERS)} workers_killed={told.workers_killed} "
        f"authorities_killed={len(told.memory) - 1} "
        + " ".join(f"{state}={count}" for state, count in sorted(states.items()))
        + f" memory_mib first={first:.0f} last={last:.0f} most={max(map(max, told.memory)):.0f} "
        f"grown_in_one={told.grown:.0f}"
    )
    assert len(told.memory) == 21 and told.workers_killed >= 140
    assert told.grown < 32 and last - first < 32
