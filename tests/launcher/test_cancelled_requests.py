"""A request that is cancelled at any moment ends there, and its descriptors are closed."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from cloister.api import LauncherRequest
from cloister.launcher.server import Launcher, LauncherConfig


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_cancelled_request_is_not_answered_and_leaks_nothing(tmp_path: Path) -> None:
    request = LauncherRequest(verb="ping").model_dump_json().encode() + b"\n"

    async def cancelled_after(turns: int) -> bool:
        """Whether the request was still under way after so many turns of the loop."""
        launcher = Launcher(LauncherConfig(home=tmp_path, socket=tmp_path / "launcher.sock"))
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with ours, open(os.devnull, "rb") as passed:
            conversation = asyncio.ensure_future(launcher._converse(theirs))
            for _ in range(3):
                await asyncio.sleep(0)
            socket.send_fds(ours, [request], [passed.fileno()])
            for _ in range(turns):
                await asyncio.sleep(0)
            asked = conversation.cancel()
            await asyncio.wait({conversation})
            assert conversation.cancelled() == asked, f"swallowed after {turns} turns"
        return asked

    async def sweep() -> None:
        await asyncio.sleep(0)
        before = open_descriptors()
        under_way = [await cancelled_after(turns) for turns in range(20)]
        assert under_way[0] and not under_way[-1], "both sides of the answer are met"
        assert open_descriptors() <= before

    asyncio.run(sweep())
