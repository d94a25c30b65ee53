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

REMEMBERED = 5_000
"""So many of the newest events are read at the start, for the logs of runs that are on their way."""
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
        self._lost = False
        self.known = 0
        """The number of the newest event when following began: up to it, events are history."""

    def client(self) -> Client:
        """The client, connected by whoever needs it first. Errors: those of `connect`."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    @property
    def connected(self) -> bool:
        """Whether there is a client; the authority behind it may still be away."""
        return self._client is not None

    @property
    def whole(self) -> bool:
        """Whether nothing of what was said was left out, before following began or since."""
        return self.known <= REMEMBERED and not self._lost

    def is_news(self, event: Event) -> bool:
        """Whether it came after following began, or says that some were lost on the way."""
        from cloister.api import EVENTS_LOST

        return event.seq > self.known or event.kind in EVENTS_LOST

    def take(self, most: int) -> list[Event]:
        """What lies in the inbox, the oldest first. Where more than `most` do, `News` of the rest follows."""
        self._told = False
        taken: list[Event] = []
        while self._inbox and len(taken) < most:
            taken.append(self._inbox.popleft())
        if self._inbox:
            self._tell()
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
            except Exception as error:  # a fault of ours does not end the following
                from cloister.console.shell import fault

                self._post(Away(fault(error)))
            self._ended.wait(RETRY_S)

    def _put(self, event: Event) -> None:
        from cloister.api import EVENTS_LOST, STREAM_RESET

        assert self._seen is not None
        self._lost = self._lost or event.kind in EVENTS_LOST
        if event.kind == STREAM_RESET:  # another history has begun, with lower numbers
            self._seen = self.known = event.seq
        self._seen = max(self._seen, event.seq)
        self._inbox.append(event)
        self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._post(News())
