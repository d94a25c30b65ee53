"""One request over a Unix socket with descriptors beside it (SCM_RIGHTS), without blocking the loop.

asyncio's streams drop descriptors, so the first line is received here. It knows JSON lines and
credentials, not what a request means.
"""

from __future__ import annotations

import array
import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cloister.descriptors import close_all
from cloister.errors import InvalidInput

MAX_REQUEST = 1 << 20
MAX_DESCRIPTORS = 250
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Peer:
    pid: int
    uid: int


def peer_of(sock: socket.socket) -> Peer:
    """Who connected, as the kernel noted it then."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid)


async def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One line and the descriptors that came with it, which are now the caller's to close.

    Raises:
        InvalidInput: the line is too long, unfinished, or its descriptors did not all arrive.
    """
    data = b""
    descriptors: list[int] = []
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    try:
        while b"\n" not in data:
            if len(data) > MAX_REQUEST:
                raise InvalidInput("A request to the launcher is longer than 1 MiB.")
            try:
                piece, ancillary, flags, _ = sock.recvmsg(1 << 16, space, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await _ready(sock, reading=True)
                continue
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                    descriptors += numbers
            if flags & socket.MSG_CTRUNC:
                raise InvalidInput(
                    "Not all descriptors arrived.", remedy="Send fewer, or raise the limit of open files."
                )
            if not piece:
                raise InvalidInput("A request to the launcher ended early.")
            data += piece
    except BaseException:
        close_all(descriptors)
        raise
    return data.split(b"\n", 1)[0], descriptors


async def send(sock: socket.socket, line: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one line; the descriptors ride on its first byte."""
    view = memoryview(line + b"\n")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    while view:
        try:
            sent = sock.sendmsg([view], rights)
        except BlockingIOError:
            await _ready(sock, reading=False)
            continue
        rights = []
        view = view[sent:]


async def _ready(sock: socket.socket, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    (loop.add_reader if reading else loop.add_writer)(sock.fileno(), wake)
    try:
        await future
    finally:
        (loop.remove_reader if reading else loop.remove_writer)(sock.fileno())
