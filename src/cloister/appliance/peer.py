"""Who is at the other end of a Unix socket: SO_PEERCRED of each connection, never what a client says."""

from __future__ import annotations

import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cloister.errors import NotFound

SCOPE_KEY = "cloister.peer"
NOBODY = 65_534
_UCRED = struct.Struct("iII")


@dataclass(frozen=True)
class Peer:
    """The account of a connection, as the kernel tells it."""

    pid: int
    uid: int
    gid: int

    @property
    def account(self) -> str:
        """The account's name, or `uid:<n>` where the system has none for it."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid:{self.uid}"


def peer_named(account: str) -> Peer:
    """The account that `Peer.account` gives this name, as if it were connected. Errors: NotFound."""
    try:
        if account.startswith("uid:"):
            return Peer(pid=0, uid=int(account.removeprefix("uid:")), gid=-1)
        entry = pwd.getpwnam(account)
    except (KeyError, ValueError):
        raise NotFound("the system has no such account", where=account[:64]) from None
    return Peer(pid=0, uid=entry.pw_uid, gid=entry.pw_gid)


def asker(uid: int | None, account: str) -> Peer:
    """Whoever asked for something, as if they did now, by the number, or by the name where no number was kept.

    An account that the system has no more has no role.
    """
    if uid is not None:
        return Peer(0, uid, 0)
    try:
        return peer_named(account)
    except NotFound:
        return Peer(0, NOBODY, 0)


def peer_of(connection: socket.socket) -> Peer:
    """The peer of a connected Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also puts the connection's peer into each request's scope."""

    peer: Peer | None = None

    def connection_made(self, transport: Any) -> None:
        connection = transport.get_extra_info("socket")
        if connection is None or connection.family != socket.AF_UNIX:
            transport.abort()
            return
        self.peer = peer_of(connection)
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope.setdefault("extensions", {})[SCOPE_KEY] = self.peer
