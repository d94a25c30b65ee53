"""An authority and a launcher in one process, with a small program in place of worker and engine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.api import JobState, ObjectKind, RunRequest
from cloister.appliance.authority import Authority
from cloister.appliance.connections import bounded_protocol
from cloister.appliance.http import create_app
from cloister.appliance.ids import new_id
from cloister.appliance.main import _server, listen
from cloister.appliance.peer import Peer
from cloister.appliance.room import GIB, Room
from cloister.appliance.state import JobRow, ObjectRow
from cloister.home import Home
from cloister.launcher.server import Launcher, LauncherConfig
from cloister.policy import Settings
from cloister.vault import ArgonParams, Vault

PEER = Peer(os.getpid(), os.getuid(), os.getgid())
PASSPHRASE = "correct horse"
PATIENCE_S = 120
PROGRAM = """
import base64, json, sys, time
from pathlib import Path
job = json.load(sys.stdin)
folder = Path(__file__).parent
if job["verb"] == "serve":
    time.sleep(600)
while not (folder / "go").exists():
    time.sleep(0.01)
if job["verb"] == "import":
    (folder / "told").write_text(job["config"]["system_prompt"])
for step in range(int((folder / "lines").read_text()) if (folder / "lines").exists() else 0):
    print(json.dumps({"event": "metrics", "step": step, "values": {"loss": 1 / (step + 1)}}), flush=True)
from cloister.vault import ObjectWriter
out = job["output"]
writer = ObjectWriter(
    Path(out["path"]), object_id=out["object_id"], kind=out["kind"], key=base64.b64decode(out["key"])
)
with writer.create("x") as file:
    file.write(b"x")
writer.finish(created_at="2026-01-01T00:00:00+00:00")
print(json.dumps({"event": "result", "values": {"steps": 1}}), flush=True)
"""


@dataclass
class World:
    """One home, its launcher, and the authority of the moment."""

    home: Home
    authority: Authority
    serving: asyncio.Task[None]
    launcher: Launcher

    peer = PEER

    @property
    def go(self) -> Path:
        return self.home.root / "go"

    async def restart(self, *, launcher: bool = False, **settings: Any) -> None:
        """Another authority over the same home, locked; with `launcher` no sandbox is left either."""
        await self.authority.stop()
        if launcher:
            await self.end_launcher()
            self.launcher, self.serving = start_launcher(self.home)
        self.authority = make(self.home, **settings)
        await self.authority.start()

    async def end_launcher(self) -> None:
        self.serving.cancel()
        with suppress(asyncio.CancelledError):
            await self.serving
        await self.launcher.close(0)

    async def unlock(self) -> None:
        await self.authority.seal.unlock(PEER, PASSPHRASE)

    def job(self, job_id: str) -> Any:
        with self.authority.state.read() as session:
            return session.get_one(JobRow, job_id)

    async def until(self, wanted: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not wanted():
                await asyncio.sleep(0.01)

    async def reaches(self, job_id: str, state: JobState) -> None:
        await self.until(lambda: self.job(job_id).state == state)

    def entered(self) -> list[str]:
        return [entry["action"] for entry in self.authority.ledger.entries(0, 10_000)]

    def actions(self) -> list[str]:
        """What was entered, but for alerts: this machine's disk, clock or swap may raise one at any moment."""
        return [action for action in self.entered() if not action.startswith("alert.")]

    async def running(self) -> list[str]:
        return [s.sandbox_id for s in await self.authority.launcher.list() if s.exit_code is None]

    def stored(self, kind: ObjectKind, name: str) -> str:
        """An object that only the state knows, with a key."""
        object_id = new_id(kind)
        self.authority.seal.vault.new_data_key(object_id)
        self.authority.catalogue.store.folder(kind, object_id, 1).mkdir(parents=True)
        with self.authority.state.change() as change:
            change.session.add(
                ObjectRow(
                    object_id=object_id,
                    version=1,
                    kind=kind,
                    name=name,
                    created_at=change.now,
                    created_by="x",
                    sealed_bytes=0,
                    manifest_sha256="0" * 64,
                    inputs=[],
                    counts={},
                    details={},
                )
            )
        return object_id

    async def runs(self, job_id: str) -> None:
        """Until its sandbox does."""
        async with asyncio.timeout(PATIENCE_S):
            while job_id not in await self.running():
                await asyncio.sleep(0.01)

    async def run(self, name: str = "run") -> str:
        """A run asked for; its training job."""
        started = await self.authority.requests.start_run(
            PEER, RunRequest(name=name, dataset="rows", base="base", evaluate=None)
        )
        return started.train_job.job_id


def make(home: Home, **settings: Any) -> Authority:
    return undisturbed(Authority(home, Settings(sandbox="none", unencrypted_swap="allow", **settings)))


def undisturbed(authority: Authority) -> Authority:
    """On a machine with room for whatever is asked, and looking for alerts only when a test has it look."""
    room = Room(
        authority.settings.queue,
        authority.home.root,
        memory=lambda _: 64 * GIB,
        disk=lambda _: (64 * GIB,) * 2,
    )
    authority.queue.choice._room = authority.serving.starts._room = room

    async def when_asked() -> None:
        await asyncio.Event().wait()

    authority.alerts.run = when_asked  # type: ignore[method-assign]
    return authority


def program(home: Home) -> list[str]:
    """The command of every sandbox."""
    path = home.root / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


def start_launcher(home: Home) -> tuple[Launcher, asyncio.Task[None]]:
    launcher = Launcher(
        LauncherConfig(
            home=home.root, socket=home.launcher_socket, sandboxed=False, program=tuple(program(home))
        )
    )
    return launcher, asyncio.ensure_future(launcher.serve())


@contextmanager
def quick_passphrases() -> Iterator[None]:
    """The slot of a vault that is made meanwhile takes milliseconds to try; it keeps that."""
    defaults = Vault.create.__func__.__kwdefaults__
    usual = defaults["argon"]
    defaults["argon"] = ArgonParams(memory_kib=8 << 10, iterations=1, lanes=1)
    try:
        yield
    finally:
        defaults["argon"] = usual


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="home") as folder:
        home = Home(Path(folder))
        home.make()
        launcher, serving = start_launcher(home)
        authority = make(home)
        await authority.start()
        with quick_passphrases():
            await authority.seal.initialise(PEER, PASSPHRASE)
        here = World(home, authority, serving, launcher)
        here.stored(ObjectKind.DATASET, "rows")
        here.stored(ObjectKind.BASE, "base")
        try:
            yield here
        finally:
            await here.authority.stop()
            await here.end_launcher()


async def dies(
    here: World, script: str, *arguments: str, after: float | None = None, may_end: bool = False
) -> tuple[bool, list[str]]:
    """An authority in a process of its own takes over, runs `script` with the home and `arguments`, and is killed: by
    itself, or `after` so many seconds from its first line. Then comes another, locked.

    Returns whether it was killed, which only with `may_end` may be false, and the lines that it printed.
    """
    await here.authority.stop()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(here.home.root),
        *arguments,
        cwd=Path(__file__).parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    said = b""
    if after is not None:
        said = await child.stdout.readline()
        await asyncio.sleep(after)
        if child.returncode is None:
            with suppress(
                ProcessLookupError
            ):  # and not by `child.kill`, which may take its status from who waits
                os.kill(child.pid, signal.SIGKILL)
    rest, error = await child.communicate()
    killed = child.returncode == -signal.SIGKILL
    assert killed or (may_end and child.returncode == 0), error.decode()
    here.authority = make(here.home)
    await here.authority.start()
    return killed, (said + rest).decode().splitlines()


@asynccontextmanager
async def at_socket(here: World) -> AsyncIterator[None]:
    """The authority of the moment behind its socket, as `cloisterd` serves it."""
    api = here.authority.settings.api
    server = _server(create_app(here.authority), bounded_protocol(api.connections))
    listener = listen(here.home.authority_socket, 0o600)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def moment(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """A test in a world of its own."""

    def run() -> None:
        async def inside() -> None:
            async with world() as here:
                await test(here)

        asyncio.run(inside())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run
