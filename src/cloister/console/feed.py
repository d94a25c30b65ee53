"""Following the authority's event stream in a thread: an inbox of events, and a connection that comes back by itself.

The console's window on the authority: it connects, reads and follows here, and nowhere else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloister.console.messages import Away, News, Reached

if TYPE_CHECKING:
    from textual.message import Message

    from cloister.api import Event
    from cloister.client import Client

REMEMBERED = 20_000
"""So many of the newest events are read at the start, for the curves of runs that are on their way."""
RETRY_S = 1.0


class Feed:
    """One follower. `connect` makes the client, and may start an appliance that does not run.

    Errors that `connect` raises are told as `Away`, and it is asked again.
    """

    def __init__(self, connect: Callable[[], Client], post: Callable[[Message], object]) -> None:
        self._connect = connect
        self._post = post
        self._client: Client | None = None
        self._inbox: deque[Event] = deque(maxlen=100_000)
        self._told = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._seen: int | None = None
        self.known = 0
        """The number of the newest event when following began: up to it, events are history."""

    def client(self) -> Client:
        """The client, connected by whoever needs it first. Errors: those of `connect`."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def take(self) -> list[Event]:
        """What lies in the inbox, which is empty then."""
        self._told = False
        taken: list[Event] = []
        while self._inbox:
            taken.append(self._inbox.popleft())
        return taken

    def end(self) -> None:
        """Stop following; the thread ends with the next event or silence."""
        self._ended.set()

    def follow(self) -> None:
        """Follow until `end`, in a thread of its own: through restarts, from the last event that was seen."""
        from cloister.errors import CloisterError

        while not self._ended.is_set():
            try:
                client = self.client()
                if self._seen is None:
                    self.known = client.status().last_seq
                    self._seen = max(0, self.known - REMEMBERED)
                self._post(Reached())
                for event in client.events(self._seen):
                    if self._ended.is_set():
                        return
                    self._put(event)
            except CloisterError as error:
                if not self._ended.is_set():
                    self._post(Away(error.message, error.remedy))
            self._ended.wait(RETRY_S)

    def _put(self, event: Event) -> None:
        assert self._seen is not None
        self._seen = max(self._seen, event.seq)
        self._inbox.append(event)
        if not self._told:
            self._told = True
            self._post(News())
