"""The launcher: starts sandboxes when the authority asks, keeps what they print, and outlives it.

Its sandboxes die with it and survive the authority, which finds them again with `list` and `follow`.
It holds no key: a job document passes through as a descriptor that is never read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cloister.api import Failure, LauncherReply, LauncherRequest, Mount, SandboxEvent
from cloister.descriptors import close_all
from cloister.errors import (
    CloisterError,
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    SandboxUnavailable,
    Unavailable,
)
from cloister.launcher import wire
from cloister.launcher.cgroup import CgroupTree
from cloister.launcher.sandboxes import Sandbox
from cloister.sandbox import PythonPaths, check_mounts

_REQUEST_TIMEOUT_S = 30.0
_BATCH = 256
_AGAIN_S = 0.5
_SHORT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC})
"""What the system says where it is short of something; it passes."""


@dataclass(frozen=True)
class LauncherConfig:
    """`home` bounds what may be mounted; `accounts` may call beside the launcher's own account.

    `sandboxed` is False only where the appliance's settings say `sandbox: none`. `program` replaces the
    program of every sandbox; tests use it. `no_sandbox`: why none can be built here, where one was tried.
    """

    home: Path
    socket: Path
    accounts: frozenset[int] = frozenset()
    sandboxed: bool = True
    program: tuple[str, ...] | None = None
    no_sandbox: str | None = None


class Launcher:
    """Serves one socket until `close`."""

    def __init__(self, config: LauncherConfig) -> None:
        self.config = config
        self._sandboxes: dict[str, Sandbox] = {}
        self._python = PythonPaths.current()
        self._cgroups: CgroupTree | None = None
        self._server: socket.socket | None = None
        self._lock = -1
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Bind the socket and answer until cancelled.

        Raises:
            Conflict: another launcher serves this socket.
        """
        self._bind()
        if self.config.sandboxed:
            self._cgroups = CgroupTree.open()
        assert self._server is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._server)
            except OSError:  # too many open files: they become fewer, and what runs must not end for that
                if self._server.fileno() < 0:  # `close` was called meanwhile
                    return
                await asyncio.sleep(_AGAIN_S)
                continue
            connection.setblocking(False)
            task = loop.create_task(self._converse(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self, grace_s: float) -> None:
        """Stop every sandbox with so much grace, and let go of the socket."""
        if self._server is not None:
            self._server.close()
        running = [sandbox for sandbox in self._sandboxes.values() if sandbox.exit_code is None]
        await asyncio.gather(*(sandbox.stop(grace_s) for sandbox in running))
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        if self._lock >= 0:
            self.config.socket.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def _bind(self) -> None:
        path = self.config.socket
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise Conflict(
                "Another launcher serves this socket.", where=str(path), remedy="Stop that one first."
            ) from None
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        previous = os.umask(0o177 if not self.config.accounts else 0o117)
        try:
            server.bind(str(path))
        finally:
            os.umask(previous)
        server.listen(128)
        server.setblocking(False)
        self._server = server

    async def _converse(self, connection: socket.socket) -> None:
        """One request a connection."""
        with connection:
            descriptors: list[int] = []
            try:
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):  # wait_for may swallow a cancellation
                    line, descriptors = await wire.receive(connection)
                peer = wire.peer_of(connection)
                if peer.uid not in self.config.accounts | {os.getuid()}:
                    raise Denied("This account may not call the launcher.", where=f"uid {peer.uid}")
                request = _parse(line)
                if request.verb == "follow":
                    await self._follow(connection, request)
                else:
                    await _reply(connection, await self._answer(request, descriptors))
            except CloisterError as error:
                with contextlib.suppress(OSError):
                    await _reply(connection, LauncherReply(ok=False, error=_failure(error)))
            except (OSError, TimeoutError):
                pass  # the caller is gone; its sandboxes stay
            finally:
                close_all(descriptors)

    async def _answer(self, request: LauncherRequest, descriptors: Sequence[int]) -> LauncherReply:
        if request.verb == "start":
            return LauncherReply(ok=True, sandboxes=((await self._start(request, descriptors)).state(),))
        if request.verb == "stop":
            sandbox = self._named(request)
            await sandbox.stop(max(0.0, min(request.grace_s, 3600.0)))
            return LauncherReply(ok=True, sandboxes=(sandbox.state(),))
        if request.verb == "forget":
            found = self._sandboxes.get(request.sandbox_id or "")
            if found is not None and found.exit_code is None:
                raise Conflict("It still runs.", where=request.sandbox_id, remedy="Stop it first.")
            self._sandboxes.pop(request.sandbox_id or "", None)
            return LauncherReply(ok=True)
        if request.verb == "list":
            return LauncherReply(ok=True, sandboxes=tuple(one.state() for one in self._sandboxes.values()))
        return LauncherReply(ok=True, no_sandbox=self.config.no_sandbox)

    async def _start(self, request: LauncherRequest, descriptors: Sequence[int]) -> Sandbox:
        spec = request.spec
        if spec is None:
            raise InvalidInput("A start needs a spec.")
        if spec.sandbox_id in self._sandboxes:
            raise Conflict(
                "A sandbox of that id is known.", where=spec.sandbox_id, remedy="Stop and forget it first."
            )
        if len(descriptors) != 1 + len(spec.descriptors):
            raise InvalidInput(
                f"{1 + len(spec.descriptors)} descriptors were announced and {len(descriptors)} came.",
                where=spec.sandbox_id,
            )
        check_mounts(spec.mounts)
        spec = spec.model_copy(update={"mounts": tuple(self._confined(mount) for mount in spec.mounts)})
        with contextlib.suppress(OSError):
            os.lseek(descriptors[0], 0, os.SEEK_SET)
        cgroup = self._cgroups.create(spec.sandbox_id) if self._cgroups else None
        sandbox = Sandbox(spec, sandboxed=self.config.sandboxed, cgroup=cgroup)
        self._sandboxes[spec.sandbox_id] = sandbox
        try:
            await sandbox.start(descriptors[0], descriptors[1:], self._python, self.config.program)
        except (OSError, CloisterError) as error:
            del self._sandboxes[spec.sandbox_id]
            if isinstance(error, CloisterError):
                raise
            if error.errno in _SHORT:
                raise Unavailable(
                    f"No process could be started just now: {os.strerror(error.errno)}.",
                    where=spec.sandbox_id,
                    remedy="See `cloister doctor`, and what else runs on this machine.",
                ) from error
            raise SandboxUnavailable(
                f"No sandbox could be started: {os.strerror(error.errno or 0)}.", where=spec.sandbox_id
            ) from error
        return sandbox

    def _confined(self, mount: Mount) -> Mount:
        """The mount with its real source, which lies where jobs' folders lie."""
        try:
            source = Path(mount.source).resolve(strict=True)
        except (OSError, RuntimeError):
            raise NotFound("The folder to mount is not there.", where=mount.source) from None
        home = self.config.home.resolve()
        allowed = [home / "work", home / "run" / "engines"]
        if not mount.writable:
            allowed.append(home / "objects")
        if not any(source != place and source.is_relative_to(place) for place in allowed):
            raise Denied("No sandbox may see that folder.", where=mount.source)
        return mount.model_copy(update={"source": str(source)})

    async def _follow(self, connection: socket.socket, request: LauncherRequest) -> None:
        """Reply, then every event after the given number, then the end."""
        sandbox = self._named(request)
        reader, writer = await asyncio.open_unix_connection(sock=connection.dup())
        gone = asyncio.ensure_future(reader.read(1))
        try:
            writer.write(
                LauncherReply(ok=True, sandboxes=(sandbox.state(),)).model_dump_json().encode() + b"\n"
            )
            number = request.after
            while not gone.done():
                changed = sandbox.changed
                batch = sandbox.lines.after(number, _BATCH)
                for number, line in batch:
                    _write(writer, SandboxEvent(number=number, line=line.decode(errors="replace")))
                await writer.drain()
                if batch:
                    continue
                if sandbox.exit_code is not None:
                    end = sandbox.lines.last + 1
                    _write(writer, SandboxEvent(number=end, exit_code=sandbox.exit_code))
                    await writer.drain()
                    return
                change = asyncio.ensure_future(changed.wait())
                await asyncio.wait((change, gone), return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
        finally:
            gone.cancel()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _named(self, request: LauncherRequest) -> Sandbox:
        sandbox = self._sandboxes.get(request.sandbox_id or "")
        if sandbox is None:
            raise NotFound("The launcher knows no such sandbox.", where=request.sandbox_id)
        return sandbox


def _parse(line: bytes) -> LauncherRequest:
    try:
        return LauncherRequest.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise InvalidInput(f"The request does not fit: {first['type']}.", where=where) from None


async def _reply(connection: socket.socket, reply: LauncherReply) -> None:
    await wire.send(connection, reply.model_dump_json().encode())


def _write(writer: asyncio.StreamWriter, event: SandboxEvent) -> None:
    writer.write(event.model_dump_json().encode() + b"\n")


def _failure(error: CloisterError) -> Failure:
    return Failure(
        code=error.code,
        message=error.message[:2000],
        where=error.where[:500] if error.where else None,
        remedy=error.remedy[:1000] if error.remedy else None,
    )
