"""The side socket: descriptors come in here, bound to a job by its token.

One message a connection: a JSON line `{"token": …, "roles": […]}` with one descriptor a role. The
authority keeps the descriptors for the worker; it never reads from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloister.appliance.peer import Peer, peer_of
from cloister.descriptors import close_all
from cloister.errors import CloisterError, Denied, InvalidInput, TooManyRequests

log = structlog.get_logger()

MAX_MESSAGE = 64 * 1024
MAX_DESCRIPTORS = 250
RECEIVE_TIMEOUT_S = 10.0
CONNECTIONS = 8
"""Of one account at a time: what has not been said whole yet holds descriptors of this process."""
TOKEN_LIFE_S = 120.0
"""How long a token opens anything, and is remembered: as long as a job waits for its source."""


@dataclass(frozen=True)
class Delivery:
    """Descriptors by role, for one job. Whoever takes it closes them; closed, it has none."""

    job_id: str
    descriptors: dict[str, int]

    def close(self) -> None:
        """Close each once, however often it is called: its number may by then be another file's."""
        ours = list(self.descriptors.values())
        self.descriptors.clear()
        close_all(ours)


@dataclass(frozen=True)
class _Issued:
    """What a token is for, whose it is, and until when, by the socket's clock."""

    job_id: str
    uid: int
    until: float


class SideSocket:
    """Receives deliveries and hands each to `deliver`, which may refuse by raising."""

    def __init__(
        self,
        path: Path,
        deliver: Callable[[Delivery], None],
        *,
        mode: int = 0o600,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._clock = clock
        self._mode = mode
        self._deliver = deliver
        self._tokens: dict[bytes, _Issued] = {}
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._held: Counter[int] = Counter()

    def issue(self, job_id: str, peer: Peer) -> str:
        """A token that lets this account, once and for `TOKEN_LIFE_S`, deliver descriptors for this job."""
        self._forget_old()
        token = secrets.token_urlsafe(32)
        until = self._clock() + TOKEN_LIFE_S
        self._tokens[hashlib.sha256(token.encode()).digest()] = _Issued(job_id, peer.uid, until)
        return token

    def withdraw(self, job_id: str) -> None:
        """Forget the tokens of a job that will not start."""
        self._tokens = {digest: one for digest, one in self._tokens.items() if one.job_id != job_id}

    def _forget_old(self) -> None:
        """Those that nobody used in time. They lie in the order in which they end."""
        now = self._clock()
        while self._tokens:
            digest = next(iter(self._tokens))
            if self._tokens[digest].until > now:
                return
            del self._tokens[digest]

    def start(self) -> None:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(str(self._path))
        self._path.chmod(self._mode)
        listener.listen(16)
        self._socket = listener
        self._task = asyncio.create_task(self._accept(listener))

    async def stop(self) -> None:
        for task in (self._task, *self._connections):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._socket is not None:
            self._socket.close()
        self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # too many open files: they become fewer
                log.warning("side.accept", cause=error.errno)
                await asyncio.sleep(0.5)
                continue
            uid = peer_of(connection).uid
            if self._held[uid] >= CONNECTIONS:
                with connection, contextlib.suppress(OSError):
                    connection.send(
                        _reply(TooManyRequests("this account hands over as much as one may at a time"))
                    )
                continue
            self._held[uid] += 1
            task = asyncio.create_task(self._serve(connection))
            self._connections.add(task)
            task.add_done_callback(functools.partial(self._ended, uid))

    def _ended(self, uid: int, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._held[uid] -= 1
        if not self._held[uid]:
            del self._held[uid]

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            connection.setblocking(False)
            try:
                async with asyncio.timeout(RECEIVE_TIMEOUT_S):
                    message, descriptors = await self._receive(connection)
                self._take(peer_of(connection), message, descriptors)
                reply = _reply()
            except CloisterError as error:
                reply = _reply(error)
            except (TimeoutError, OSError):
                return
            with contextlib.suppress(OSError):
                await loop.sock_sendall(connection, reply)

    async def _receive(self, connection: socket.socket) -> tuple[bytes, list[int]]:
        """Read up to the newline, with every descriptor that came along."""
        data, descriptors = b"", list[int]()
        try:
            while not data.endswith(b"\n"):
                await _readable(connection)
                part, more, flags, _ = socket.recv_fds(
                    connection, MAX_MESSAGE, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
                descriptors.extend(more)
                data += part
                if flags & socket.MSG_CTRUNC or len(descriptors) > MAX_DESCRIPTORS:
                    raise InvalidInput(f"more than {MAX_DESCRIPTORS} descriptors")
                if not part or len(data) > MAX_MESSAGE:
                    raise InvalidInput("not a message of the side socket")
        except BaseException:
            close_all(descriptors)
            raise
        return data, descriptors

    def _take(self, peer: Peer, message: bytes, descriptors: list[int]) -> None:
        delivery = Delivery("", {str(i): descriptor for i, descriptor in enumerate(descriptors)})
        try:
            try:
                document = json.loads(message)
                token, roles = str(document["token"]), [str(role) for role in document["roles"]]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise InvalidInput("not a message of the side socket") from None
            self._forget_old()
            digest = hashlib.sha256(token.encode()).digest()
            issued = self._tokens.get(digest)
            if issued is None or issued.uid != peer.uid:
                raise Denied(
                    "this token is not known, was used already, or is too old",
                    remedy="Ask for the job again: what it waits for has to be handed over within two minutes.",
                )
            if len(roles) != len(descriptors) or len(set(roles)) != len(roles):
                raise InvalidInput("one descriptor a role is expected")
            delivery = Delivery(issued.job_id, dict(zip(roles, descriptors, strict=True)))
            self._deliver(delivery)
        except BaseException:
            delivery.close()
            raise
        self._tokens.pop(digest, None)


def _reply(error: CloisterError | None = None) -> bytes:
    said: dict[str, object] = {"ok": True}
    if error is not None:
        said = {"ok": False, "code": error.code, "detail": error.message, "remedy": error.remedy}
    return json.dumps(said).encode() + b"\n"


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, readable)
    try:
        await ready
    finally:
        loop.remove_reader(connection)
