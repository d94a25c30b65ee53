"""The client's streams: one that is left half-read holds up nobody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
