"""What stands on every screen: the state of the appliance above, what was said and the keys below."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from cloister.console.actions import PLACES, in_scope
from cloister.console.paint import hung, marked, outside, styled
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


class Spoken(Static):
    """What stands of all that was said to the operator."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._line = Text("")

    def show(self, line: Text) -> None:
        """Show that line, where it is another one."""
        if line != self._line:
            self._line = line
            self.update(line)


class KeyBar(Words):
    """The keys that count on this screen, in two lines: those that matter most, and of the others the first that fit.
    What the policies deny has a `×`."""

    def __init__(self, scope: str) -> None:
        super().__init__()
        self._scope = scope
        self._last: tuple[Picture, bool] | None = None

    def show(self, picture: Picture, *, armed: bool) -> None:
        self._last = (picture, armed)
        width = self.size.width or 80
        items = self._items(picture, armed)
        taken = [item.cell_len for item, _ in items]
        shown = [*range(len(items))]
        spare = [at for at, (_, matters) in enumerate(items) if not matters]
        while spare and len(_in_lines([taken[at] for at in shown], width)) > LINES:
            shown.remove(spare.pop())
        lines = iter(_in_lines([taken[at] for at in shown], width)[:LINES])
        left = iter(shown)
        self.tell(Text("\n").join(Text().join(items[next(left)][0] for _ in range(n)) for n in lines))

    def on_resize(self) -> None:
        super().on_resize()
        if self._last is not None:
            self.show(self._last[0], armed=self._last[1])

    def _items(self, picture: Picture, armed: bool) -> list[tuple[Text, bool]]:
        """Each, and whether it matters most."""
        items = []
        for action in in_scope(self._scope):
            if action.id.startswith("go."):
                continue
            if action.when is not None and not action.when(picture):
                continue
            allowed = picture.may(action.policy)
            dim = "dim" if not allowed or (action.changes and not armed) else ""
            label = "read-only" if action.id == "arm" and armed else action.label
            item = styled(f" {action.shown_key}", f"{dim} bold".strip())
            item.append(f" {label} " if allowed else f" ×{label} ", dim)
            items.append((item, action.bar))
        return items


def _in_lines(items: list[int], width: int) -> list[int]:
    """How many of the items, each of so many columns, stand in each line."""
    lines, left = [0], width
    for item in items:
        if item > left:
            lines.append(0)
            left = width
        lines[-1] += 1
        left -= item
    return lines
