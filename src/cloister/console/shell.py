"""The console as a program on a terminal: its look, its keys in their order, signals, and how a fault is told.

It knows neither the authority nor a screen.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.events import Event, Key
from textual.screen import Screen

from cloister.console.collecting import Collector
from cloister.console.keys import KeyOrder
from cloister.console.painted import Painted
from cloister.console.theme import THEME
from cloister.streams import write_whole

SWITCH_S = 0.001
"""Threads that read give way to keys so soon."""


LONGEST_S = 0.25
"""So long a screen that comes is waited for at most."""


def in_thread(work: Callable[[], None]) -> None:
    """Do it beside the screen. Leaving the console waits for no such thread: what it asked for goes on."""
    threading.Thread(target=work, daemon=True).start()


def when_told(screen: Screen[Any], then: Callable[[], None]) -> None:
    """Do it once a screen and all that is in it have taken in what they were told until now."""

    def each() -> None:
        inside = list(screen.walk_children())
        left = len(inside)

        def one() -> None:
            nonlocal left
            left -= 1
            if not left and not screen.call_later(then):
                then()

        for widget in inside:
            if not widget.call_later(one):
                one()

    if not screen.call_later(each):
        then()


def fault(error: BaseException) -> str:
    """A fault of the console itself: named by its place, and never with the values of that moment, among which may be
    a passphrase, a key or a row."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {Path(place[0].filename).name}:{place[0].lineno}" if place else ""
    return f"the console failed: {type(error).__name__}{where}"


class Shell(App[None]):
    """What runs and ends."""

    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012 - Textual's own form
    VERTICAL_BREAKPOINTS = [(0, "-low"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]

    def __init__(self) -> None:
        super().__init__(ansi_color=True)
        self._keys = KeyOrder(self)
        self.collector = Collector()
        self.register_theme(THEME)
        self.set_reactive(Shell.theme, THEME.name)  # from the start: nothing is styled twice
        self.stylesheet.set_variables(self.get_css_variables())
        self.animation_level = "none"

    def push_screen(self, screen: Any, *args: Any, **options: Any) -> Any:
        """Put a screen over the one in front."""
        self.delay_update()
        return super().push_screen(screen, *args, **options)

    def delay_update(self, delay: float = LONGEST_S) -> None:
        """Paint nothing until the screen that comes is laid out with what it shows: then once. Textual lays it out
        and paints it several times on the way, and elsewhere waits for a fixed time."""
        self._begin_batch()
        held = True

        def paint() -> None:
            nonlocal held
            if held:
                held = False
                self._end_batch()
                if not self._batch_count:
                    for screen in self.screen_stack:
                        screen.check_idle()  # what it has to do after a paint
                    if self.screen_stack and isinstance(self.screen, Painted):
                        self.screen.paint()

        self.set_timer(delay, paint)
        self.call_later(lambda: when_told(self.screen, paint))

    def on_terminal(self) -> int:
        """Run on this terminal, until it is left or ended. Returns the exit code."""
        from cloister.console.terminal import Signals, Terminal

        write_whole()
        self.driver_class = Terminal
        sys.setswitchinterval(SWITCH_S)
        with Signals(self._end):
            self.run(mouse=False)
        return self.return_code or 0

    def _end(self, code: int) -> None:
        """A signal ends the console; nothing that runs is touched."""
        if self._loop is None:
            raise SystemExit(code)
        self._loop.call_soon_threadsafe(lambda: self.exit(return_code=code))

    def _fatal_error(self) -> None:
        """Told in words, as `fault` has them."""
        error = sys.exception()
        told = "the console failed" if error is None else fault(error)
        self._exit_renderables.append(
            Text(f"{told[:1].upper()}{told[1:]}. Nothing that runs is touched; `cloister` opens it again.")
        )
        self._close_messages_no_wait()

    async def on_event(self, event: Event) -> None:
        if isinstance(event, Key):
            if not self.screen_stack:  # the console ends: nobody is there whom it could be for
                return
            self.collector.typed()
        if not isinstance(event, Key) or event.is_forwarded:
            await super().on_event(event)
        elif not self._keys.holds(event):
            begun = self.focused or self.screen
            await super().on_event(event)
            self._keys.follow(begun)
