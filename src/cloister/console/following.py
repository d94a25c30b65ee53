"""The console as a window on the authority: the picture that is read in threads, moved on by events, and shown.

Workers post messages and never touch a widget; what they found is shown here. It acts on nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from textual.screen import Screen

from cloister.console.actions import PLACES
from cloister.console.drafts import Draft
from cloister.console.feed import Feed
from cloister.console.history import History
from cloister.console.machine import Machine, look
from cloister.console.messages import Away, Fresh
from cloister.console.picture import SHELVES, Picture, read, stale
from cloister.console.sayings import Sayings
from cloister.console.screens.place import Place
from cloister.console.shell import Shell, fault, in_thread
from cloister.console.watching import Watch
from cloister.console.widgets.frame import KeyBar, Spoken, TopBar

if TYPE_CHECKING:
    from cloister.client import Client

LOOK_EVERY_S = 5.0
"""The status is read so often even where no event tells of anything."""
WATCH_EVERY_S = 1.0
COLLECT_EVERY_S = 0.25
AHEAD_S = 1.5
"""After so long the first screen stands."""
GATHER_S = 0.25
"""Events of so long are shown at once."""
PACE_S = 1.0
"""What goes on telling is shown so often: over a slow line a stream of numbers costs little."""
TAKEN = 2_000
"""So many events are taken in at a time; keys come between."""
ALWAYS = ("status", "alerts", "whoami")


def _screen(name: str) -> Callable[[], Screen[Any]]:
    """A screen that is loaded when it is first gone to."""

    def make() -> Screen[Any]:
        from importlib import import_module

        place: Screen[Any] = import_module(f"cloister.console.screens.{name}").PLACE()
        return place

    return make


def _load_ahead() -> None:
    """The other screens' modules, while nobody waits for one: so that each comes at once when it is first gone to."""
    from importlib import import_module

    for name in PLACES:
        import_module(f"cloister.console.screens.{name}")


class Following(Shell):
    """`connect` makes the client, in a thread. `clock` tells the time, in UTC, `look_at_machine` how the machine is."""

    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {name: _screen(name) for name in PLACES}

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        machine: str | None = None,
        look_at_machine: Callable[[], Machine | None] = look,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.look_at_machine = look_at_machine
        self.machine = machine or socket.gethostname()
        self.picture = Picture()
        self.history = History()
        self.armed = False
        self.sayings = Sayings(clock)
        self._answering: int | None = None
        self.feed = Feed(connect, self.post_message)
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._reading = False
        self._watch = Watch(clock)
        self._taken_at = 0.0
        self._begun = False
        self._shown: tuple[Place | None, Picture] = (None, self.picture)
        self._draft = Draft()

    def on_mount(self) -> None:
        self.switch_mode(PLACES[0])

    def _begin(self) -> None:
        """Connect, once the frame stands: what that loads would keep the screen waiting."""
        if self._begun:
            return
        self._begun = True
        if not self.is_headless:
            self.collector.begin()
            self.set_interval(COLLECT_EVERY_S, self.collector.look)
            self.set_timer(AHEAD_S, lambda: in_thread(_load_ahead))
        in_thread(self.feed.follow)
        self._read_first()
        self.set_interval(LOOK_EVERY_S, self._look)
        self.set_interval(WATCH_EVERY_S, self._look_out)

    def on_unmount(self) -> None:
        self.feed.end()

    # --- what is shown --------------------------------------------------------------------------

    @property
    def place(self) -> Place | None:
        """The screen below all dialogs."""
        for screen in self.screen_stack:
            if isinstance(screen, Place):
                return screen
        return None

    @property
    def appliance(self) -> str:
        """What this appliance is called on its banner."""
        status = self.picture.status
        return (status.environment.name if status is not None else None) or self.machine

    def entered(self, place: Place) -> None:
        """A screen came to the front: show it, where that was not done behind a dialog; once it is painted, read what
        it needs and nobody read yet."""
        if self._shown[0] is not place or self._shown[1] is not self.picture:
            self.show()
        self._speak()
        place.call_after_refresh(self._read_first if self._begun else self._begin)

    def _read_first(self) -> None:
        self.reread(name for name in self._needed() if name not in self.picture.read)

    def show(self) -> None:
        """Show the picture on the screen in front, and around it; nothing any more while the console ends."""
        place = self.place
        if place is None or not place.is_mounted or self._exit or not place.query(TopBar):
            return
        status = self.picture.status
        colour = status.environment.colour if status is not None else None
        place.query_one(TopBar).show(
            self.picture, armed=self.armed, place=place.scope, name=self.appliance, colour=colour
        )
        place.query_one(KeyBar).show(self.picture, armed=self.armed)
        place.show(self.picture)
        self._shown = (place, self.picture)

    def hush(self, *, read: bool = False) -> None:
        """What stands above the keys was read; with `read`, what is counted before it, too."""
        self.sayings.read() if read else self.sayings.hush()
        self._speak()

    def say(self, text: str, mood: str = "good") -> None:
        """Tell the operator, in the line above the keys, of the action whose answer this is, else of the newest."""
        late = self._answering is not None
        action = self._answering if self._answering is not None else self.sayings.action
        failure = mood == "bad" or (late and mood == "warn")
        self.sayings.take(text, mood, action, failure=failure)
        self._speak()

    def announce(self, text: str, mood: str = "good") -> None:
        """Tell the operator of what no action of theirs came to."""
        self.sayings.take(text, mood, None, failure=False)
        self._speak()

    def _speak(self) -> None:
        if self.place is not None and not self._exit:
            self.place.query_one(Spoken).show(self.sayings.line())

    # --- reading and following --------------------------------------------------------------------

    def reread(self, names: Iterable[str]) -> None:
        """Read these shelves again, as soon as nothing else is being read."""
        self._wanted.update(names)
        if not self._wanted or self._reading or not self._begun:
            return
        self._reading = True
        self._watch.asked()
        self._asked = {*self._wanted}
        wanted, self._wanted = [name for name in SHELVES if name in self._wanted], set()

        def work() -> None:
            from cloister.errors import CloisterError

            try:
                self.post_message(Fresh(*read(self.feed.client(), wanted)))
            except CloisterError as error:
                self.post_message(Away(error.message, error.remedy))
            except Exception as error:  # a fault of ours does not end the reading
                self.post_message(Away(fault(error)))

        in_thread(work)

    def reread_here(self) -> None:
        """Read again what this screen shows."""
        self.reread(self._needed())

    def _look(self) -> None:
        self.reread(["status"])

    def _look_out(self) -> None:
        """Say what nobody tells: an answer that does not come, a clock that was set."""
        silent, jump = self._watch.silent(), self._watch.jumped()
        if silent is not None and self.feed.connected and self.picture.away is None:
            self._tell_away(f"the authority has not answered for {silent:.0f} s", None)
        if jump is not None:
            before, now = (one.astimezone().strftime("%Y-%m-%d %H:%M:%S") for one in jump)
            self.announce(f"The clock was set from {before} to {now}: ages and ends are told by it.", "warn")
            self.show()

    def _needed(self) -> set[str]:
        return {*ALWAYS, *(self.place.needs if self.place is not None else ())}

    def on_fresh(self, message: Fresh) -> None:
        self._reading = False
        self._asked.clear()
        self._watch.answered()
        self.picture = self.picture.with_read(message.found, message.refused)
        self._back()
        self.show()
        if self._wanted:
            self.set_timer(GATHER_S, lambda: self.reread(()))

    def on_reached(self) -> None:
        self._back()
        self.reread_here()

    def on_away(self, message: Away) -> None:
        self._reading = False
        self._wanted |= self._asked  # what was not read then is read when next something is
        self._watch.answered()
        self._tell_away(message.problem, message.remedy)

    def _tell_away(self, problem: str, remedy: str | None) -> None:
        if self.picture.away is None:
            told = problem[:1].upper() + problem[1:].rstrip(".")
            self.announce(" ".join(filter(None, [f"{told}.", remedy, "Asking again by itself."])), "bad")
        self.picture = replace(self.picture, away=problem)
        self.show()

    def _back(self) -> None:
        if self.picture.away is not None:
            self.picture = replace(self.picture, away=None)
            self.announce("The authority answers again.")

    def on_news(self) -> None:
        rest = self._taken_at + PACE_S - time.monotonic()
        self.set_timer(max(GATHER_S, rest), self._take_news)

    def _take_news(self) -> None:
        self._taken_at = time.monotonic()
        touched: set[str] = set()
        taken = self.feed.take(TAKEN)
        for event in taken:
            self.history.take(event)
            touched.update(stale(event.kind) if self.feed.is_news(event) else ())
        self.picture = self.picture.with_events(one for one in taken if self.feed.is_news(one))
        unread = touched - self._needed()  # what no screen in front shows is read when one does
        if unread:
            self.picture = replace(self.picture, read=self.picture.read - unread)
        self.show()
        self.reread(touched & self._needed())
