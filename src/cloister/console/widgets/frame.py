"""What stands on every screen: the state of the appliance above, what was said and the keys below."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from cloister.console.actions import PLACES, in_scope
from cloister.console.paint import GLYPHS, hung, marked, outside, styled
from cloister.console.picture import Picture

BANNERS = {
    "red": "red on white reverse",
    "amber": "yellow on black reverse",
    "green": "green on black reverse",
    "blue": "blue on white reverse",
    "magenta": "magenta on white reverse",
    "grey": "bold reverse",
}
"""Both colours are said, so that the words are as legible on a light terminal as on a dark one; reversed, so that
the banner is one without colours, too."""
LINES = 2
"""Of keys."""


def state_of(picture: Picture, armed: bool) -> list[Text]:
    """Seal, ledger, sandbox, alerts, armed or not: each by word, glyph and colour."""
    arming = Text(" ARMED ", BANNERS["amber"]) if armed else Text("read-only", "dim")
    if picture.away is not None:
        return [marked("bad", "AUTHORITY AWAY"), Text("asking again …", "dim"), arming]
    status = picture.status
    if status is None:
        return [marked("busy", "connecting …"), arming]
    if not status.initialised:
        seal = marked("warn", "no vault yet")
    else:
        seal = marked("warn", "LOCKED") if status.locked else marked("good", "open")
    if status.ledger.failure:
        ledger = marked("bad", "LEDGER REFUSES")
    elif not status.ledger.witnessed and status.initialised:
        ledger = marked("warn", "UNWITNESSED")
    else:
        ledger = marked("good", "ledger")
    sandboxed = status.sandbox == "bubblewrap"
    sandbox = marked("good", "sandbox") if sandboxed else marked("bad", "NO SANDBOX")
    critical = sum(alert.severity == "critical" for alert in picture.alerts)
    count = len(picture.alerts)
    if not count:
        alerts = Text("no alert", "dim")
    else:
        alerts = marked("bad" if critical else "warn", f"{count} alert{'s' if count > 1 else ''}")
    return [seal, ledger, sandbox, alerts, arming]


class Words(Static):
    """A text; what is told again is not drawn again."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(markup=False, id=id)
        self._shown: Text | None = None
        self._drawn: Text | None = None

    @property
    def told(self) -> str:
        """What it says, without its looks."""
        return self._shown.plain if self._shown is not None else ""

    def tell(self, text: Text) -> None:
        """Show it, where it differs from what is there."""
        if self._shown is None or text != self._shown:
            self._shown = text
            self._draw()

    def _draw(self) -> None:
        if self._shown is None:
            return
        width = self.size.width
        drawn = hung(self._shown, width, self.app.console) if width else self._shown
        if drawn is not self._drawn:
            self._drawn = drawn
            self.update(drawn, layout=self.styles.auto_dimensions)

    def on_resize(self) -> None:
        self._draw()


class TopBar(Words):
    """Two lines: where and how it is; the screens with their numbers."""

    def show(self, picture: Picture, *, armed: bool, place: str, name: str, colour: str | None) -> None:
        first = styled(f" {outside(name, 20).plain} ", BANNERS.get(colour or "grey", BANNERS["grey"]))
        for part in state_of(picture, armed):
            first.append("  ")
            first.append_text(part)
        second = Text()
        for number, one in enumerate(PLACES, 1):
            second.append(f" {number} {one.capitalize()} ", "bold reverse" if one == place else "")
        self.tell(Text("\n").join([first, second]))


class Saying(Static):
    """The last thing that was said to the operator, in one line."""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def hush(self) -> None:
        """It was heard: nothing old is said where somebody comes back to."""
        self.update("")

    def say(self, text: str, mood: str) -> None:
        self.update(Text(" ") + (marked(mood, "") if mood in GLYPHS else Text("· ")) + outside(text, 500))


class KeyBar(Words):
    """The keys that count on this screen, in two lines: all of them where they fit, else those that matter most. What
    the policies deny has a `×`."""

    def __init__(self, scope: str) -> None:
        super().__init__()
        self._scope = scope
        self._last: tuple[Picture, bool] | None = None

    def show(self, picture: Picture, *, armed: bool) -> None:
        self._last = (picture, armed)
        width = self.size.width or 80
        every = _in_lines(self._items(picture, armed, every=True), width)
        lines = every if len(every) <= LINES else _in_lines(self._items(picture, armed, every=False), width)
        self.tell(Text("\n").join(lines[:LINES]))

    def on_resize(self) -> None:
        super().on_resize()
        if self._last is not None:
            self.show(self._last[0], armed=self._last[1])

    def _items(self, picture: Picture, armed: bool, *, every: bool) -> list[Text]:
        items = []
        for action in in_scope(self._scope):
            if action.id.startswith("go.") or not (action.bar or every):
                continue
            if action.when is not None and not action.when(picture):
                continue
            allowed = picture.may(action.policy)
            dim = "dim" if not allowed or (action.changes and not armed) else ""
            label = "read-only" if action.id == "arm" and armed else action.label
            item = styled(f" {action.shown_key}", f"{dim} bold".strip())
            item.append(f" {label} " if allowed else f" ×{label} ", dim)
            items.append(item)
        return items


def _in_lines(items: list[Text], width: int) -> list[Text]:
    """Lines of whole items."""
    lines = [Text()]
    for item in items:
        if lines[-1].cell_len + item.cell_len > width:
            lines.append(Text())
        lines[-1].append_text(item)
    return lines
