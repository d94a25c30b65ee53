"""What stands on every screen: the state of the appliance above, what was said and the keys below."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from cloister.console.actions import PLACES, in_scope
from cloister.console.paint import COLOURS, GLYPHS, outside, styled
from cloister.console.picture import Picture

BANNERS = {
    "red": "bold white on red",
    "amber": "bold black on yellow",
    "green": "bold black on green",
    "blue": "bold white on blue",
    "magenta": "bold white on magenta",
    "grey": "bold reverse",
}


def _mark(mood: str, words: str) -> Text:
    return Text(f"{GLYPHS[mood]} {words}", COLOURS[mood])


def state_of(picture: Picture, armed: bool) -> list[Text]:
    """Seal, ledger, sandbox, alerts, armed or not: each by word, glyph and colour."""
    arming = Text(" ARMED ", "bold black on yellow") if armed else Text("read-only", "dim")
    if picture.away is not None:
        return [_mark("bad", "AUTHORITY AWAY"), Text("asking again …", "dim"), arming]
    status = picture.status
    if status is None:
        return [_mark("busy", "connecting …"), arming]
    if not status.initialised:
        seal = _mark("warn", "no vault yet")
    else:
        seal = _mark("warn", "LOCKED") if status.locked else _mark("good", "open")
    if status.ledger.failure:
        ledger = _mark("bad", "LEDGER REFUSES")
    elif not status.ledger.witnessed and status.initialised:
        ledger = _mark("warn", "UNWITNESSED")
    else:
        ledger = _mark("good", "ledger")
    sandboxed = status.sandbox == "bubblewrap"
    sandbox = _mark("good", "sandbox") if sandboxed else _mark("bad", "NO SANDBOX")
    critical = sum(alert.severity == "critical" for alert in picture.alerts)
    count = len(picture.alerts)
    if not count:
        alerts = Text("no alert", "dim")
    else:
        alerts = _mark("bad" if critical else "warn", f"{count} alert{'s' if count > 1 else ''}")
    return [seal, ledger, sandbox, alerts, arming]


class TopBar(Static):
    """Two lines: where and how it is; the screens with their numbers."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._shown: Text | None = None

    def tell(self, picture: Picture, *, armed: bool, place: str, name: str, colour: str | None) -> None:
        """Show it, where it differs from what is there."""
        first = styled(f" {outside(name, 20).plain} ", BANNERS.get(colour or "grey", BANNERS["grey"]))
        for part in state_of(picture, armed):
            first.append("  ")
            first.append_text(part)
        second = Text()
        for number, one in enumerate(PLACES, 1):
            second.append(f" {number} {one.capitalize()} ", "bold reverse" if one == place else "")
        text = Text("\n").join([first, second])
        if self._shown is None or text != self._shown:
            self._shown = text
            self.update(text)


class Saying(Static):
    """The last thing that was said to the operator, in one line."""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def say(self, text: str, mood: str) -> None:
        glyph = {"good": "●", "bad": "×", "warn": "▲"}.get(mood, "·")
        self.update(styled(f" {glyph} ", COLOURS.get(mood, "")) + outside(text, 500, COLOURS.get(mood, "")))


class KeyBar(Static):
    """The keys that count on this screen, in two lines; what the policies deny has a `×`."""

    def __init__(self, scope: str) -> None:
        super().__init__(markup=False)
        self._scope = scope
        self._shown: Text | None = None
        self._told: tuple[Picture, bool] | None = None

    def tell(self, picture: Picture, *, armed: bool) -> None:
        """Show them, where they differ from what is there."""
        self._told = (picture, armed)
        text = Text("\n").join(_in_lines(self._items(picture, armed), self.size.width or 80))
        if self._shown is None or text != self._shown:
            self._shown = text
            self.update(text)

    def on_resize(self) -> None:
        if self._told is not None:
            self.tell(self._told[0], armed=self._told[1])

    def _items(self, picture: Picture, armed: bool) -> list[Text]:
        items = []
        for action in in_scope(self._scope):
            if not action.bar:
                continue
            allowed = picture.may(action.policy)
            dim = "dim" if not allowed or (action.changes and not armed) else ""
            label = "read-only" if action.id == "arm" and armed else action.label
            item = styled(f" {action.shown_key}", f"{dim} bold".strip())
            item.append(f" {label} " if allowed else f" ×{label} ", dim)
            items.append(item)
        return items


def _in_lines(items: list[Text], width: int) -> list[Text]:
    """Two lines of whole items; what does not fit is left to the help."""
    lines = [Text()]
    for item in items:
        if lines[-1].cell_len + item.cell_len > width:
            if len(lines) == 2:
                break
            lines.append(Text())
        lines[-1].append_text(item)
    return lines
