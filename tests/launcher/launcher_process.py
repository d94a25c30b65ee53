"""A real launcher in its own process, and what tests ask of it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister.api import Mount, SandboxEvent, SandboxSpec, SandboxState
from cloister.errors import Unavailable
from cloister.launcher.client import LauncherClient
from cloister.sandbox import memory_file

SANDBOX = "jb-000000000001"


@dataclass
class Running:
    """A launcher, its home and a client. `process` is its keeper; `mark` stands in the command of every
    process of its sandboxes."""

    home: Path
    process: subprocess.Popen[bytes]
    client: LauncherClient
    mark: str

    @property
    def pid(self) -> int:
        """The launcher itself: who listens on its socket."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.client.path))
            return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]

    def output_folder(self, sandbox_id: str = SANDBOX) -> Path:
        folder = self.home / "work" / sandbox_id / "out"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def start(
        self, sandbox_id: str = SANDBOX, *, job: bytes = b"", extra: Sequence[int] = (), **spec: object
    ) -> SandboxState:
        """`extra` descriptors, and the output folder mounted."""
        mount = Mount(source=str(self.output_folder(sandbox_id)), inside="/out", writable=True)
        document = memory_file("job", job)
        try:
            return await self.client.start(
                SandboxSpec.model_validate(
                    {
                        "sandbox_id": sandbox_id,
                        "program": "worker",
                        "mounts": (mount,),
                        "tmp_mib": 64,
                        "shm_mib": 16,
                        "threads": 1,
                        "descriptors": tuple(f"d{index}" for index in range(len(extra))),
                        **spec,
                    }
                ),
                [document, *extra],
            )
        finally:
            os.close(document)

    async def events(self, sandbox_id: str = SANDBOX, after: int = 0) -> list[SandboxEvent]:
        return [event async for event in self.client.follow(sandbox_id, after)]

    def processes(self) -> list[int]:
        """Everything that belongs to this launcher's sandboxes, dead or not yet."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if self.mark.encode() in command and b"cloister.launcher" not in command:
                    found.append(int(entry.name))
        return found

    def wait_for_no_processes(self, limit_s: float = 60.0) -> list[int]:
        deadline = time.monotonic() + limit_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def wait_for_its_end(self, pid: int, limit_s: float = 60.0) -> bool:
        """Whether the process `pid` ends in time."""
        deadline = time.monotonic() + limit_s
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not Path(f"/proc/{pid}").exists()


async def answer(running: Running) -> None:
    while running.process.poll() is None:
        try:
            await running.client.ping()
            return
        except Unavailable:
            await asyncio.sleep(0.02)
    raise AssertionError(running.process.stderr.read() if running.process.stderr else "ended")
