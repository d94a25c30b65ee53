"""Where the launcher's descriptors run out, wherever that is: nothing leaks or runs on unseen, and it goes on."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.children import children

from cloister.api import SandboxSpec
from cloister.errors import CloisterError
from cloister.launcher.client import LauncherClient
from cloister.launcher.sandboxes import Sandbox
from cloister.launcher.server import Launcher, LauncherConfig
from cloister.sandbox import PythonPaths

PROGRAM = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def open_now() -> list[int]:
    """Without the one that looks, which has a number like any other."""
    return sorted(number for number in map(int, os.listdir("/proc/self/fd")) if is_open(number))


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@contextmanager
def only(more: int) -> Iterator[None]:
    """The lowest numbers that are free, so many of them, and no others."""
    taken = open_now()
    filling = []
    while max(free := os.dup(0), *taken) != free:
        filling.append(free)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filling:
            os.close(descriptor)


def test_a_start_that_runs_out_of_them_leaves_nothing(tmp_path: Path) -> None:
    async def starts(more: int) -> bool:
        spec = SandboxSpec(sandbox_id="jb-000000000000", program="worker", tmp_mib=1, shm_mib=1)
        sandbox = Sandbox(spec, sandboxed=False, cgroup=None)
        before, others = open_now(), children()
        with open(os.devnull, "rb") as stdin:
            try:
                with only(more):
                    await sandbox.start(stdin.fileno(), [], PythonPaths.current(), PROGRAM)
            except OSError:
                started = False
            else:
                started = True
                await sandbox.stop(0)
        assert not set(open_now()) - set(before), f"with {more} descriptors"
        assert not children() - others, "it runs on, and nobody knows of it"
        return started

    async def sweep() -> list[bool]:
        return [await starts(more) for more in range(9)]

    began = asyncio.run(sweep())
    assert not began[0] and began[-1]


def test_a_launcher_that_can_accept_nobody_for_a_while_goes_on(tmp_path: Path) -> None:
    async def inside() -> None:
        launcher = Launcher(LauncherConfig(home=tmp_path, socket=tmp_path / "launcher.sock", sandboxed=False))
        serving = asyncio.ensure_future(launcher.serve())
        client = LauncherClient(tmp_path / "launcher.sock", answer_s=60)
        while True:
            try:
                await client.ping()
                break
            except CloisterError:
                await asyncio.sleep(0.01)
        with socket.socket(socket.AF_UNIX) as early, only(0):
            early.connect(str(tmp_path / "launcher.sock"))
            await asyncio.sleep(0.05)
            assert not serving.done(), "it would have taken its sandboxes along"
        await client.ping()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await launcher.close(0)

    asyncio.run(inside())
