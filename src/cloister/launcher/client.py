"""The authority's side of the launcher's socket. One connection a request; it keeps no state."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from cloister.api import LauncherReply, LauncherRequest, SandboxEvent, SandboxSpec, SandboxState
from cloister.errors import Unavailable, by_code
from cloister.launcher import wire

_LINE_LIMIT = 16 << 20
ANSWER_S = 60.0


class NoAnswer(Unavailable):
    """The launcher is there and does not answer in time. What it was asked may happen yet."""


class LauncherClient:
    """Talks to the launcher at `path`, which has `answer_s` seconds for an answer.

    Raises (all methods):
        Unavailable: no launcher answers there; NoAnswer where it has not answered in time.
        CloisterError: what the launcher refused, as the class that it named.
    """

    def __init__(self, path: Path, *, answer_s: float = ANSWER_S) -> None:
        self.path = path
        self._answer_s = answer_s

    async def start(self, spec: SandboxSpec, fds: Sequence[int]) -> SandboxState:
        """Build a sandbox. `fds`: a memfd with the job document, then one for each of `spec.descriptors`.
        They are duplicated: the caller closes its own."""
        reply = await self._ask(LauncherRequest(verb="start", spec=spec), fds)
        return reply.sandboxes[0]

    async def stop(self, sandbox_id: str, grace_s: float = 10.0) -> SandboxState:
        """SIGTERM, and SIGKILL after `grace_s` seconds; returns once it has ended."""
        request = LauncherRequest(verb="stop", sandbox_id=sandbox_id, grace_s=grace_s)
        reply = await self._ask(request, within_s=grace_s + self._answer_s)
        return reply.sandboxes[0]

    async def list(self) -> tuple[SandboxState, ...]:
        """Every sandbox that was started and not forgotten."""
        return (await self._ask(LauncherRequest(verb="list"))).sandboxes

    async def forget(self, sandbox_id: str) -> None:
        """Drop what an ended sandbox left. One that is not known is as good as forgotten."""
        await self._ask(LauncherRequest(verb="forget", sandbox_id=sandbox_id))

    async def ping(self) -> str | None:
        """Returns when the launcher answers, with the reason why it can build no sandbox; None where it can."""
        return (await self._ask(LauncherRequest(verb="ping"))).no_sandbox

    async def follow(self, sandbox_id: str, after: int = 0) -> AsyncIterator[SandboxEvent]:
        """Its events with numbers greater than `after`, as they come; the last one has `exit_code`.

        Numbers begin at 1. A gap means that lines were dropped; the last `result` or `failure` never is.
        """
        request = LauncherRequest(verb="follow", sandbox_id=sandbox_id, after=after)
        sock = await self._connect()
        try:
            await wire.send(sock, request.model_dump_json().encode())
        except OSError:  # it ended, or never took the connection up
            sock.close()
            raise _gone(self.path) from None
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_LINE_LIMIT)
        try:
            _check(await reader.readline())
            while True:
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    raise _gone(self.path)
                event = SandboxEvent.model_validate_json(line)
                yield event
                if event.exit_code is not None:
                    return
        except OSError:
            raise _gone(self.path) from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _ask(
        self, request: LauncherRequest, descriptors: Sequence[int] = (), *, within_s: float | None = None
    ) -> LauncherReply:
        limit_s = self._answer_s if within_s is None else within_s
        try:
            async with asyncio.timeout(limit_s):
                return _check(await self._exchange(request, descriptors))
        except TimeoutError:
            raise NoAnswer(
                f"The launcher has not answered within {limit_s:g} s; its sandboxes may still run.",
                where=request.sandbox_id or str(self.path),
                remedy="End it and them: `cloister down`, and `cloister up` again. Runs can be resumed.",
            ) from None

    async def _exchange(self, request: LauncherRequest, descriptors: Sequence[int]) -> bytes:
        sock = await self._connect()
        loop = asyncio.get_running_loop()
        with sock:
            data = b""
            try:
                await wire.send(sock, request.model_dump_json().encode(), descriptors)
                while not data.endswith(b"\n"):
                    piece = await loop.sock_recv(sock, 1 << 16)
                    if not piece:
                        break
                    data += piece
            except OSError:
                raise _gone(self.path) from None
        return data

    async def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(self.path))
        except OSError:
            sock.close()
            raise Unavailable(
                "The launcher does not answer.", where=str(self.path), remedy="Start it: `cloister up`."
            ) from None
        except BaseException:
            sock.close()
            raise
        return sock


def _check(line: bytes) -> LauncherReply:
    try:
        reply = LauncherReply.model_validate_json(line)
    except ValidationError:
        raise Unavailable("The launcher ended in the middle of an answer.") from None
    if not reply.ok:
        error = reply.error
        if error is None:
            raise Unavailable("The launcher refused and did not say why.")
        raise by_code(error.code)(error.message, where=error.where, remedy=error.remedy)
    return reply


def _gone(path: Path) -> Unavailable:
    return Unavailable("The launcher went away.", where=str(path), remedy="Start it: `cloister up`.")
