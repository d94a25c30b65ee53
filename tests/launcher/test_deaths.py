"""Who dies with whom: sandboxes with their launcher, at any moment; with their authority never."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from launcher_process import SANDBOX, Running  # type: ignore[import-not-found]
from tests.children import children_of

from cloister.errors import CloisterError

Launch = Callable[..., Running]

TREE = (
    "import os, time\n"
    "for _ in range(2):\n"
    "    if os.fork() == 0: os.setsid()\n"
    "print('up', flush=True)\n"
    "while True: time.sleep(0.05)\n"
)


@pytest.mark.parametrize("which", ["launcher", "keeper"])
def test_killing_the_launcher_ends_every_process_of_its_sandboxes(launch: Launch, which: str) -> None:
    running = launch(TREE)
    pid = running.pid

    async def check() -> None:
        for index in range(3):
            await running.start(f"jb-00000000000{index}")
            await anext(running.client.follow(f"jb-00000000000{index}"))

    asyncio.run(check())
    assert len(running.processes()) >= 3 * 4
    os.kill(pid if which == "launcher" else running.process.pid, signal.SIGKILL)
    assert running.process.wait() != 0
    assert running.wait_for_no_processes() == []
    assert running.wait_for_its_end(pid)


def test_ending_the_launcher_politely_ends_them_too(launch: Launch) -> None:
    running = launch(TREE)
    asyncio.run(running.start())
    running.process.terminate()
    assert running.process.wait(timeout=120) == 0
    assert running.wait_for_no_processes() == []
    assert not running.client.path.exists()


def kills(launch: Launch, count: int, seed: int) -> None:
    """Kill the launcher at random moments of a sandbox's building, mostly in its first milliseconds."""
    rng = random.Random(seed)
    for _ in range(count):
        running = launch(TREE)
        victim = rng.choice([running.pid, running.pid, running.process.pid])
        delay = rng.choice([rng.uniform(0, 0.02), rng.uniform(0, 0.15)])

        async def start(running: Running = running) -> None:
            with contextlib.suppress(CloisterError):
                await running.start()

        async def check(delay: float = delay, victim: int = victim) -> None:
            task = asyncio.ensure_future(start())
            await asyncio.sleep(delay)
            os.kill(victim, signal.SIGKILL)
            await task

        asyncio.run(check())
        running.process.wait()
        assert running.wait_for_no_processes() == []


def test_random_kills_leave_nothing(launch: Launch) -> None:
    kills(launch, 4, seed=1)


@pytest.mark.slow
def test_twenty_random_kills_leave_nothing(launch: Launch) -> None:
    kills(launch, 20, seed=2)


@pytest.mark.soak
def test_many_random_kills_leave_nothing(launch: Launch) -> None:
    kills(launch, 200, seed=3)
    print("soak: kills=200")


def test_killing_bubblewrap_alone_ends_the_sandbox_and_is_told(launch: Launch) -> None:
    running = launch(TREE)
    rng = random.Random(3)

    async def check() -> None:
        for index in range(8):
            name = f"jb-00000000000{index}"
            starting = asyncio.ensure_future(running.start(name))
            await asyncio.sleep(rng.uniform(0, 0.05))
            children = children_of(running.pid)
            for pid in children:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(CloisterError):
                await starting
                if children:
                    events = await running.events(name)
                    assert events[-1].exit_code == -signal.SIGKILL
                else:
                    await running.client.stop(name, 0)

    asyncio.run(check())
    assert running.wait_for_no_processes() == []


def test_an_authority_that_dies_leaves_its_sandboxes_running(launch: Launch) -> None:
    running = launch("import time\nfor n in range(10**6): print(n, flush=True); time.sleep(0.01)")
    code = (
        "import asyncio, os, sys; from pathlib import Path\n"
        "from cloister.api import *; from cloister.launcher.client import LauncherClient\n"
        "from cloister.sandbox import memory_file\n"
        "async def main():\n"
        "    client = LauncherClient(Path(sys.argv[1]))\n"
        "    spec = SandboxSpec(sandbox_id=sys.argv[2], program='worker', tmp_mib=16, shm_mib=8)\n"
        "    await client.start(spec, [memory_file('job', b'')])\n"
        "    async for event in client.follow(sys.argv[2]):\n"
        "        print(event.number, flush=True)\n"
        "asyncio.run(main())\n"
    )
    authority = subprocess.Popen(
        [sys.executable, "-c", code, str(running.client.path), SANDBOX], stdout=subprocess.PIPE
    )
    assert authority.stdout is not None
    seen = 0
    while seen < 5:
        seen = int(authority.stdout.readline())
    authority.kill()
    authority.communicate()

    async def check() -> None:
        (state,) = await running.client.list()
        assert state.exit_code is None
        follow = running.client.follow(SANDBOX, after=seen)
        numbers = [(await anext(follow)).number for _ in range(20)]
        assert numbers == list(range(seen + 1, seen + 21))  # none lost, none twice

    asyncio.run(check())


def test_a_new_launcher_takes_the_place_of_a_killed_one(launch: Launch) -> None:
    first = launch(TREE)
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    second = launch(TREE, home=first.home)
    asyncio.run(second.start())
    assert second.processes() != []
