"""The order of keys: one counts before the next is looked at, which may be meant for what it opens.

Over a slow line keys arrive together, and each climbs from the field to the application before it is known whose it
is. Knows nodes, not what keys do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual.app import App

if TYPE_CHECKING:
    from textual.events import Key
    from textual.message_pump import MessagePump

KEY_S = 0.25
"""What a key began may take longer; the next ones go on then."""


class KeyOrder:
    """Holds keys back while one is on its way."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._held: deque[Key] = deque()
        self._let: Key | None = None
        self._sent = 0
        self._busy = False

    def holds(self, key: Key) -> bool:
        """Whether the key has to wait for the one before it; it comes again then."""
        if self._busy and key is not self._let:
            self._held.append(key)
            return True
        self._busy, self._let = True, None
        return False

    def follow(self, begun: MessagePump) -> None:
        """The key was handed to this node; it has counted once it has climbed from there to the application, and what
        the node then told of it, such as a choice that was made, has climbed so, too."""
        self._sent += 1
        number = self._sent
        self._app.set_timer(KEY_S, lambda: self._counted(number))

        def climb(node: MessagePump, then: Callable[[], object]) -> None:
            above = node._parent
            if above is None or not above.call_later(climb, above, then):
                then()

        def begin(then: Callable[[], object]) -> None:
            if not begun.call_later(climb, begun, then):
                climb(begun, then)

        begin(lambda: begin(lambda: self._app.call_later(self._counted, number)))

    def _counted(self, number: int) -> None:
        if number != self._sent or not self._busy:
            return
        if self._held:
            self._sent += 1  # what the one before still has to say is no matter now
            self._let = self._held.popleft()
            self._app.post_message(self._let)
        else:
            self._busy = False
