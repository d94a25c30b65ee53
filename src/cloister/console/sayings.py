"""What was said to the operator: which of it stands in the line above the keys, and all of it, to be looked up.

What the newest action came to stands: what an older one comes to after it does not take its place, and a failure that
nobody could read there is counted. It draws nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from cloister.console.paint import GLYPHS, marked, outside, styled
from cloister.shown import counted

KEPT = 200
LIMIT = 500
"""Characters of one that are shown."""


@dataclass(frozen=True)
class Saying:
    """`action` is the number of the action that it comes of, None where it comes of none; `newest` that of the newest
    one then."""

    time: datetime
    text: str
    mood: str
    action: int | None
    newest: int
    failure: bool

    def told(self) -> Text:
        """Behind the glyph of its mood."""
        lead = marked(self.mood, "") if self.mood in GLYPHS else Text("· ")
        return lead + outside(self.text, LIMIT)


class Sayings:
    """The newest last. `clock` tells the time, in UTC."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._kept: deque[Saying] = deque(maxlen=KEPT)
        self._action = 0
        self.standing: Saying | None = None
        self.unread = 0

    @property
    def kept(self) -> Sequence[Saying]:
        return self._kept

    @property
    def action(self) -> int:
        """The number of the newest action."""
        return self._action

    def begin(self) -> None:
        """An operator's key begins an action."""
        self._action += 1

    def take(self, text: str, mood: str, action: int | None, *, failure: bool) -> None:
        """Something is said of an action. A `failure` that cannot be read in the line, or only until an answer to
        something else came, is counted as unread."""
        said = Saying(self._clock(), text, mood, action, self._action, failure)
        self._kept.append(said)
        before = self.standing
        if before is not None and action is not None and (before.action or 0) > action:
            self.unread += failure
            return
        if before is not None and before.failure and before.action != action:
            self.unread += action is None or action <= before.newest
        self.standing = said

    def hush(self) -> None:
        """What stands there was read."""
        self.standing = None

    def read(self) -> None:
        """All of it was read."""
        self.standing, self.unread = None, 0

    def line(self) -> Text:
        """What stands, behind how many failures wait to be read."""
        unread = Text("")
        if self.unread:
            unread = marked("bad", f"M shows {counted(self.unread, 'earlier failure')}") + Text("  ")
        standing = self.standing.told() if self.standing is not None else Text("")
        return Text(" ") + unread + standing if unread or standing else Text("")


def listed(sayings: Sequence[Saying]) -> Text:
    """All that is kept, the newest first, each with its time in this machine's zone."""
    if not sayings:
        return styled("Nothing was said yet.", "dim")
    return Text("\n").join(
        styled(f"{one.time.astimezone():%H:%M:%S}  ", "dim") + one.told() for one in reversed(sayings)
    )
