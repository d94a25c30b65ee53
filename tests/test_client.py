"""The client's connections: a stream that is left half-read holds up nobody, and what idles is not relied on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloister.client import Client

EVENT = (
    b'data: {"seq": 1, "time": "2026-01-01T00:00:00Z", "kind": "test", "object_id": null, "values": {}}\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@contextmanager
def authority(path: Path) -> Iterator[None]:
    """Answers whatever it is asked with one event, and says nothing more."""
    held = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            held.append(connection)
            connection.recv(65536)
            connection.sendall(HEAD + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            serving.join()
            for connection in held:
                connection.close()


def test_a_stream_that_is_left_in_the_middle_of_a_request_is_let_go_of(tmp_path: Path) -> None:
    with authority(tmp_path / "s"), Client(tmp_path / "s") as client:
        events = client.events()
        assert next(events).seq == 1
        leaving = threading.Thread(target=events.close, daemon=True)
        with client._http._transport._pool._optional_thread_lock:  # as every request holds it for a moment
            leaving.start()
            leaving.join(60)
            assert not leaving.is_alive()
        leaving.join()


class HangingUp:
    """Answers one request a connection, and lets go of it as soon as there is another, as an authority does at the
    moment in which it has idled long enough. `asked` is how many connections were made."""

    def __init__(self, path: Path) -> None:
        self.asked = 0
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self.asked += 1
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]"
                )
                connection.recv(65536)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()


def test_a_connection_that_may_be_let_go_of_is_not_used_again(tmp_path: Path) -> None:
    there = HangingUp(tmp_path / "s")
    try:
        with pytest.MonkeyPatch.context() as patch, Client(tmp_path / "s") as client:
            assert client.jobs() == []
            now = time.monotonic
            patch.setattr(time, "monotonic", lambda: now() + 4.5)  # as long as it has idled
            assert client.jobs() == []
        assert there.asked == 2
    finally:
        there.close()
