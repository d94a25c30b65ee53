"""Data keys for the other processes of one sandbox: ranks, and an inference engine's own processes.

Only the first process gets the job document. The others ask it over a Unix socket in the sandbox's
RAM `/tmp`: a key is in no argument, environment or file. Each process gets each key once. It does
not know what a key opens.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from cloister.errors import Denied, NotFound, Unavailable

_CREDENTIALS = struct.Struct("3i")
_GIVEN, _DENIED, _UNKNOWN = b"k", b"d", b"u"
_NAME = re.compile(rb"^[a-z0-9][a-z0-9._-]{0,62}$")
_TIMEOUT_S = 5.0


class KeyServer:
    """Serves `keys` (object id → data key) at `path` to this process's descendants and to `expected` ones.

    A caller must have this process's account, and be a descendant of it or named by `expect`. A
    descendant whose parent has ended belongs to nobody and is refused. Use as a context manager.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, path: Path, keys: Mapping[str, bytes]) -> None:
        self.path = path
        self._keys = {name: bytearray(key) for name, key in keys.items()}
        self._expected: set[int] = set()
        self._given: set[tuple[int, int, str]] = set()
        self._lock = threading.Lock()
        self._closed = False
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._server.bind(str(path))
            path.chmod(0o600)
            self._server.listen(64)
        except OSError:
            self._server.close()
            raise
        self._thread = threading.Thread(target=self._serve, name="cloister-keys", daemon=True)
        self._thread.start()

    def expect(self, pid: int) -> None:
        """Serve this process too, though it is not a descendant."""
        with self._lock:
            self._expected.add(pid)

    def close(self) -> None:
        """Stop serving, remove the socket and overwrite the keys. Twice is as good as once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for key in self._keys.values():
                key[:] = bytes(len(key))
            self._keys.clear()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self.path.unlink(missing_ok=True)
        if threading.current_thread() is not self._thread:
            self._thread.join(
                timeout=_TIMEOUT_S
            )  # it waits on the socket's number, which is nobody's once closed
        self._server.close()

    def __enter__(self) -> KeyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(_TIMEOUT_S)
                try:
                    self._answer(connection)
                except OSError:
                    continue

    def _answer(self, connection: socket.socket) -> None:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        asked = _read_line(connection)
        name = asked.decode() if _NAME.match(asked) else ""
        started = start_time(pid)
        with self._lock:
            allowed = uid == os.getuid() and (pid in self._expected or descends_from(pid, os.getpid()))
            if not allowed or started is None or (pid, started, name) in self._given:
                connection.sendall(_DENIED)
            elif name not in self._keys:
                connection.sendall(_UNKNOWN)
            else:
                self._given.add((pid, started, name))
                connection.sendall(_GIVEN + bytes(self._keys[name]))


def fetch_key(path: Path, object_id: str, *, timeout_s: float = 10.0) -> bytes:
    """Ask the key server at `path` for one object's data key; waits for the socket to appear.

    Raises:
        Unavailable: nothing answers there within `timeout_s`.
        Denied: this process is not expected, or had the key before.
        NotFound: the server holds no key of that object.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(max(0.1, deadline - time.monotonic()))
                sock.connect(str(path))
                sock.sendall(object_id.encode() + b"\n")
                answer = _read_all(sock)
            break
        except OSError as error:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    "The key server of this sandbox does not answer.", where=str(path)
                ) from error
            time.sleep(0.02)
    if answer[:1] == _GIVEN:
        return answer[1:]
    if answer[:1] == _UNKNOWN:
        raise NotFound("The key server of this sandbox holds no key of it.", where=object_id)
    raise Denied("This process may not have that key, or had it before.", where=object_id)


def descends_from(pid: int, ancestor: int) -> bool:
    """Whether `ancestor` started `pid`, itself or through processes that still run."""
    for _ in range(64):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        fields = _stat(pid)
        if fields is None:
            return False
        pid = int(fields[1])
    return False


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks: together with its id it is never used twice."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def _stat(pid: int) -> list[str] | None:
    """The fields of `/proc/<pid>/stat` after the name, which may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _read_line(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < 128:
        piece = sock.recv(128 - len(data))
        if not piece:
            break
        data += piece
    return data.rstrip(b"\n")


def _read_all(sock: socket.socket) -> bytes:
    data = b""
    while len(data) < 4096:
        piece = sock.recv(4096)
        if not piece:
            break
        data += piece
    return data
