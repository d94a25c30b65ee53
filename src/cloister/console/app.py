"""The console's application: one picture of the authority, screens that show it, requests in threads.

Workers post messages and never touch a widget; what they found is shown here. It knows no screen's contents.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.theme import BUILTIN_THEMES

from cloister.console.actions import BY_ID, PLACES, Action
from cloister.console.feed import Feed
from cloister.console.history import History
from cloister.console.messages import Answered, Away, Fresh, Refused, Said
from cloister.console.picture import SHELVES, Picture, read, stale
from cloister.console.screens.place import Place
from cloister.console.widgets.frame import KeyBar, Saying, TopBar

if TYPE_CHECKING:
    from cloister.client import Client

Result = TypeVar("Result")

LOOK_EVERY_S = 5.0
"""The status is read so often even where no event tells of anything."""
GATHER_S = 0.25
"""Events of so long are shown at once."""
ALWAYS = ("status", "alerts", "whoami")

# The terminal's own sixteen colours: right in a light and in a dark one, and in 16 or 256 colours.
_ANSI = BUILTIN_THEMES["ansi-dark"]
THEME = replace(
    _ANSI,
    name="cloister",
    variables={
        **_ANSI.variables,
        "border-blurred": "ansi_bright_black",
        "scrollbar": "ansi_bright_black",
        "scrollbar-background": "ansi_default",
        "scrollbar-active": "ansi_cyan",
        "scrollbar-hover": "ansi_cyan",
        "scrollbar-corner-color": "ansi_default",
    },
)


def _screen(name: str) -> Callable[[], Screen[Any]]:
    """A screen that is loaded when it is first gone to."""

    def make() -> Screen[Any]:
        from importlib import import_module

        place: Screen[Any] = import_module(f"cloister.console.screens.{name}").PLACE()
        return place

    return make


def in_thread(work: Callable[[], None]) -> None:
    """Do it beside the screen. Leaving the console waits for no such thread: what it asked for goes on."""
    threading.Thread(target=work, daemon=True).start()


class ConsoleApp(App[None]):
    """`connect` makes the client, in a thread. `clock` tells the time, in UTC."""

    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012 - Textual's own form
    VERTICAL_BREAKPOINTS = [(0, "-low"), (32, "-tall")]  # noqa: RUF012
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {name: _screen(name) for name in PLACES}
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        machine: str | None = None,
    ) -> None:
        super().__init__(ansi_color=True)
        self.clock = clock
        self.machine = machine or socket.gethostname()
        self.picture = Picture()
        self.history = History()
        self.armed = False
        self.feed = Feed(connect, self.post_message)
        self._wanted: set[str] = set()
        self._reading = False
        self.animation_level = "none"

    def on_mount(self) -> None:
        self.register_theme(THEME)
        self.theme = "cloister"
        self.switch_mode(PLACES[0])
        in_thread(self.feed.follow)
        self.set_interval(LOOK_EVERY_S, self._look)

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

    def entered(self, place: Place) -> None:
        """A screen came to the front: show it, and read what it needs and nobody read yet."""
        self.show()
        self.reread(name for name in (*ALWAYS, *place.needs) if name not in self.picture.read)

    def show(self) -> None:
        """Show the picture on the screen in front, and around it."""
        place = self.place
        if place is None or not place.is_mounted:
            return
        status = self.picture.status
        environment = status.environment if status is not None else None
        name = (environment.name if environment else None) or self.machine
        colour = environment.colour if environment else None
        place.query_one(TopBar).tell(
            self.picture, armed=self.armed, place=place.scope, name=name, colour=colour
        )
        place.query_one(KeyBar).tell(self.picture, armed=self.armed)
        place.show(self.picture)

    def say(self, text: str, mood: str = "good") -> None:
        """Tell the operator, in the line above the keys."""
        if self.place is not None:
            self.place.query_one(Saying).say(text, mood)

    # --- reading and following --------------------------------------------------------------------

    def reread(self, names: Any) -> None:
        """Read these shelves again, as soon as nothing else is being read."""
        self._wanted.update(names)
        if not self._wanted or self._reading:
            return
        self._reading = True
        wanted, self._wanted = [name for name in SHELVES if name in self._wanted], set()

        def work() -> None:
            from cloister.errors import CloisterError

            try:
                self.post_message(Fresh(*read(self.feed.client(), wanted)))
            except CloisterError as error:
                self.post_message(Away(error.message, error.remedy))

        in_thread(work)

    def _look(self) -> None:
        self.reread(["status"])

    def _needed(self) -> set[str]:
        return {*ALWAYS, *(self.place.needs if self.place is not None else ())}

    def on_fresh(self, message: Fresh) -> None:
        self._reading = False
        self.picture = self.picture.with_read(message.found, message.refused)
        self._back()
        self.show()
        if self._wanted:
            self.set_timer(GATHER_S, lambda: self.reread(()))

    def on_reached(self) -> None:
        if self.picture.away is not None:
            self._back()
            self.say("The authority answers again.")
        self.reread(self._needed())

    def on_away(self, message: Away) -> None:
        self._reading = False
        if self.picture.away is None:
            problem = message.problem[:1].upper() + message.problem[1:].rstrip(".")
            self.say(f"{problem}. {message.remedy or ''} Asking again by itself.", "bad")
        self.picture = replace(self.picture, away=message.problem)
        self.show()

    def _back(self) -> None:
        if self.picture.away is not None:
            self.picture = replace(self.picture, away=None)

    def on_news(self) -> None:
        self.set_timer(GATHER_S, self._take_news)

    def _take_news(self) -> None:
        touched: set[str] = set()
        for event in self.feed.take():
            self.history.take(event)
            if event.seq <= self.feed.known:
                continue
            self.picture = self.picture.with_event(event)
            touched.update(stale(event.kind))
        unread = touched - self._needed()  # what no screen in front shows is read when one does
        if unread:
            self.picture = replace(self.picture, read=self.picture.read - unread)
        self.show()
        self.reread(touched & self._needed())

    # --- acting -----------------------------------------------------------------------------------

    def action_perform(self, action_id: str) -> None:
        """Do an action of the registry, where policy and arming let it."""
        action = BY_ID[action_id]
        if not self.picture.may(action.policy):
            self._explain(action)
            return
        if action.changes and not self.armed:
            self.say(f"Read-only: press w to arm the console, then {action.shown_key} again.", "warn")
            return
        if action.id.startswith("go."):
            self.switch_mode(action.id[3:])
            return
        for target in (self.place, self):
            method = getattr(target, action.method, None)
            if method is not None:
                method()
                return

    def request(
        self,
        work: Callable[[Client], Result],
        then: Callable[[Result], object] | None = None,
        *,
        doing: str,
        failed: Callable[[str], None] | None = None,
        quiet: bool = False,
    ) -> None:
        """Ask the authority in a thread. `then` gets the answer here; what is refused is said, with its remedy,
        or told to `failed`. A `quiet` one changes nothing, so that nothing is read again after it."""

        def ask() -> None:
            from cloister.errors import CloisterError

            try:
                self.post_message(Answered(work(self.feed.client()), then, quiet=quiet))
            except CloisterError as error:
                self.post_message(Refused(doing, error, failed))
            except OSError as error:
                refused = CloisterError(error.strerror or "the system refuses", where=error.filename)
                self.post_message(Refused(doing, refused, failed))

        in_thread(ask)

    def on_answered(self, message: Answered) -> None:
        if message.then is not None:
            message.then(message.answer)
        if not message.quiet:
            self.reread(self._needed())

    def on_refused(self, message: Refused) -> None:
        error = message.error
        if message.failed is not None:
            message.failed(error.message)
            return
        place = f"{error.where}: " if error.where else ""
        waits = error.code == "approval-needed"
        told = f"{message.doing}: {place}{error.message.rstrip('.')}. {error.remedy or ''}"
        self.say(told, "warn" if waits else "bad")
        self.reread(self._needed())

    def on_said(self, message: Said) -> None:
        self.say(message.line, "info")

    def _explain(self, action: Action) -> None:
        """Say why the policies deny an action, as they themselves explain it."""
        from cloister.console.denial import ask_why, told

        assert action.policy is not None
        policy = action.policy
        self.say(f"{action.label}: denied. Asking the policies why …", "warn")
        self.request(
            lambda client: ask_why(client, policy),
            lambda answers: self.tell(f"Denied: {action.label}", told(policy, answers, self.picture)),
            doing=f"{action.label} is denied",
        )

    def tell(self, title: str, text: Any, *, copied: str | None = None) -> None:
        """A text to read, over the screen."""
        from cloister.console.screens.dialogs import Tell

        self.push_screen(Tell(title, text, copied=copied))

    def ask_form(
        self,
        title: str,
        fields: Sequence[Any],
        then: Callable[[dict[str, str]], None],
        *,
        note: Any = None,
    ) -> None:
        """A form to fill in; left with Esc, nothing happens."""
        from cloister.console.screens.dialogs import Form

        self.push_screen(
            Form(title, fields, note=note), lambda values: then(values) if values is not None else None
        )

    def confirm(self, title: str, touched: Any, name: str, doing: str, then: Callable[[], None]) -> None:
        """What is touched, and the name to be typed, before it happens."""
        from cloister.console.screens.dialogs import Confirm

        def answered(sure: bool | None) -> None:
            then() if sure else self.say("Nothing was changed.", "info")

        self.push_screen(Confirm(title, touched, name, doing), answered)

    # --- actions that count everywhere --------------------------------------------------------------

    def do_arm(self) -> None:
        self.armed = not self.armed
        if self.armed:
            self.say("Armed: keys that change something act now. w makes it read-only again.", "warn")
        else:
            self.say("Read-only.")
        self.show()

    def do_quit(self) -> None:
        self.exit()

    def do_reread(self) -> None:
        self.reread(self._needed())
        self.say("Reading again.", "info")

    def do_copy(self) -> None:
        chosen = self.place.chosen_id() if self.place is not None else None
        if chosen is None:
            self.say("There is no id under the cursor.", "warn")
            return
        self.copy_to_clipboard(chosen)
        self.say(f"{chosen} (sent to your terminal's clipboard)")

    def do_palette(self) -> None:
        from cloister.console.screens.palette import Palette, home_of

        scope = self.place.scope if self.place is not None else PLACES[0]

        def chosen(action_id: str | None) -> None:
            if action_id is None:
                return
            home = home_of(action_id, scope)
            if home is not None:
                self.switch_mode(home)
            self.call_after_refresh(self.action_perform, action_id)

        self.push_screen(Palette(scope, self.picture), chosen)

    def do_help(self) -> None:
        from cloister.console.help import help_for

        if self.place is not None:
            self.tell(f"Help: {self.place.scope}", help_for(self.place.scope, self.picture))
