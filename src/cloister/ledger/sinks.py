"""Where exported messages go: a syslog receiver over TCP, TLS, UDP or a Unix socket, or rotated files.

A sink sends, and says what it knows of the other side. Retrying, order and the cursor are `shipping`'s.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cloister.ledger.ocsf import encode
from cloister.ledger.syslog import Header, octet_counted

CONNECT_S = 5.0
SEND_S = 10.0
MAX_UDP = 65_507
_LINES = 1 << 20


class Sink(Protocol):
    """One receiver. Calls raise OSError where it does not work; then `close`, and later `open` again."""

    @property
    def durable(self) -> bool:
        """Whether what `send` returned from is kept; else it may be lost with the receiver."""
        ...

    @property
    def limit(self) -> int | None:
        """The longest message in bytes."""
        ...

    def open(self) -> None: ...

    def render(self, event: Mapping[str, Any]) -> bytes:
        """The bytes of an event, as this sink sends them."""
        ...

    def send(self, messages: Sequence[bytes]) -> None: ...

    def unacknowledged(self) -> int:
        """Bytes that the receiver's system has not confirmed; 0 where nothing confirms."""
        ...

    def check(self) -> None:
        """Raises OSError where the receiver has gone."""
        ...

    def close(self) -> None: ...


class SyslogStream:
    """TCP (RFC 6587, octet counting) or TLS (RFC 5425)."""

    durable = False
    limit: int | None = None

    def __init__(
        self,
        host: str,
        port: int,
        header: Header,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        self._address = (host, port)
        self._header = header
        self._tls = tls
        self._server_name = server_name or host
        self._socket: socket.socket | None = None

    def open(self) -> None:
        self.close()
        connection = socket.create_connection(self._address, CONNECT_S)
        try:
            for option, value in (
                (socket.TCP_USER_TIMEOUT, int(SEND_S * 1000)),
                (socket.TCP_KEEPIDLE, 10),
                (socket.TCP_KEEPINTVL, 5),
                (socket.TCP_KEEPCNT, 3),
            ):
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_hostname=self._server_name)
            connection.settimeout(SEND_S)
        except BaseException:
            connection.close()
            raise
        self._socket = connection

    def render(self, event: Mapping[str, Any]) -> bytes:
        return octet_counted(self._header.message(event))

    def send(self, messages: Sequence[bytes]) -> None:
        _connected(self._socket).sendall(b"".join(messages))

    def unacknowledged(self) -> int:
        connection = _connected(self._socket)
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, tcp(7)
        return int(struct.unpack("i", answer)[0])

    def check(self) -> None:
        _check_peer(_connected(self._socket))

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


class SyslogDatagram:
    """UDP (RFC 5426) or a Unix datagram socket: one message a datagram."""

    durable = False

    def __init__(self, address: tuple[str, int] | str, header: Header) -> None:
        self._address = address
        self._header = header
        self._socket: socket.socket | None = None
        self.limit: int | None = MAX_UDP

    def open(self) -> None:
        self.close()
        if isinstance(self._address, str):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            target: tuple[str, int] | str = self._address
        else:
            found = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            connection, target = socket.socket(found[0], socket.SOCK_DGRAM), found[4]  # type: ignore[assignment]
        try:
            connection.settimeout(SEND_S)
            connection.connect(target)
        except BaseException:
            connection.close()
            raise
        self._socket = connection

    def render(self, event: Mapping[str, Any]) -> bytes:
        return self._header.message(event)

    def send(self, messages: Sequence[bytes]) -> None:
        connection = _connected(self._socket)
        for message in messages:
            connection.send(message)

    def unacknowledged(self) -> int:
        return 0

    def check(self) -> None:
        _check_peer(_connected(self._socket))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class JsonLines:
    """A file of JSON lines, synced; at `rotate_bytes` it becomes `<name>.1`, and so on up to `keep`."""

    durable = True
    limit: int | None = None

    def __init__(self, path: Path, *, rotate_bytes: int, keep: int) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._descriptor = -1
        self._size = 0

    def open(self) -> None:
        self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            self._size = _cut_torn_line(descriptor)
            os.fsync(descriptor)
            _sync_folder(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def render(self, event: Mapping[str, Any]) -> bytes:
        return encode(event) + b"\n"

    def send(self, messages: Sequence[bytes]) -> None:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._size and self._size + sum(map(len, messages)) > self._rotate_bytes:
            self._rotate()
        data = memoryview(b"".join(messages))
        self._size += len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def unacknowledged(self) -> int:
        return 0

    def check(self) -> None:
        """Raises where the file is no longer the one that is written: it was moved or removed."""
        there, mine = self._path.stat(), os.fstat(self._descriptor)
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _rotate(self) -> None:
        def numbered(number: int) -> Path:
            return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

        for number in range(self._keep, -1, -1):
            if numbered(number).exists():
                if number == self._keep:
                    numbered(number).unlink()
                else:
                    numbered(number).replace(numbered(number + 1))
        self.open()


def _connected(connection: socket.socket | None) -> socket.socket:
    if connection is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return connection


def _check_peer(connection: socket.socket) -> None:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    for _, events in poll.poll(0):
        if events & (select.POLLERR | select.POLLHUP | select.POLLRDHUP | select.POLLNVAL):
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
            raise OSError(code, os.strerror(code))


def _cut_torn_line(descriptor: int) -> int:
    """Remove what stands behind the last newline: a write that was cut off, and is sent again."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        begin = max(0, end - _LINES)
        newline = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end < size:
        os.ftruncate(descriptor, end)
    return end


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
