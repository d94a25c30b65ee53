"""Columns that give way: how wide each is where not all fit, and names shortened so that no two look alike.

Numbers and strings only; it draws nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from rich.cells import cell_len, set_cell_size
from rich.text import Text

LEAD = 3
"""Characters before the first that differs, which say where it stands."""
DIGITS = 6
"""Of a digest, where nothing else tells two names apart."""


@dataclass(frozen=True)
class Short:
    """What stays of a text: its first `head` characters, a `…`, those from `start` to `stop`, and `end`."""

    head: int
    start: int = 0
    stop: int = 0
    end: str = ""

    def of(self, text: Text) -> Text:
        """The text itself shortened, with its looks."""
        kept = text[: self.head]
        kept.append("…")
        kept.append_text(text[self.start : self.stop])
        return kept.append(self.end)

    def told(self, text: str) -> str:
        return f"{text[: self.head]}…{text[self.start : self.stop]}{self.end}"


def fitted(widths: Sequence[int], least: Mapping[int, int], room: int) -> tuple[int, ...]:
    """The widths, where they take more than `room` together: those columns that have a `least` width give way to the
    others, the widest of them first."""
    left = list(widths)
    over = sum(left) - room
    while over > 0:
        giving = [at for at, most in least.items() if left[at] > most]
        if not giving:
            break
        left[max(giving, key=lambda at: left[at])] -= 1
        over -= 1
    return tuple(left)


def shortened(names: Iterable[str], width: int) -> dict[str, Short]:
    """Those of the names that are wider than `width` columns: each with its beginning and its end, and where two would
    look alike so, with what stands where they first differ."""
    long = {name for name in names if cell_len(name) > width}
    shorts = {name: _ends(name, width) for name in long}
    for alike in _alike(shorts):
        differ = _differ(alike)
        shorts |= {name: _from(name, differ, width) for name in alike}
    for alike in _alike(shorts):
        shorts |= {name: _digest(name, width) for name in alike}
    return shorts


def named(names: Sequence[str], width: int) -> list[str]:
    """The names, each in at most `width` columns, as `shortened` has them."""
    shorts = shortened(names, width)
    return [shorts[name].told(name) if name in shorts else name for name in names]


def _alike(shorts: Mapping[str, Short]) -> list[list[str]]:
    """Names that look alike, shortened so."""
    told = defaultdict(list)
    for name, short in shorts.items():
        told[short.told(name)].append(name)
    return [names for names in told.values() if len(names) > 1]


def _differ(names: Sequence[str]) -> int:
    """The first place at which they are not all the same."""
    together = zip(*names, strict=False)
    return next((at for at, each in enumerate(together) if len({*each}) > 1), min(map(len, names)))


def _ends(name: str, width: int) -> Short:
    if not _even(name):
        return Short(_first(name, width - 1))
    tail = (width - 1) // 2
    return Short(width - 1 - tail, len(name) - tail, len(name))


def _from(name: str, differ: int, width: int) -> Short:
    """The beginning, then what stands about there."""
    head = min(width // 3, differ)
    room = width - 1 - head
    start = max(head, differ - LEAD)
    if not _even(name) or room < 2 * LEAD:
        return Short(_first(name, width - 1))
    if start + room >= len(name):
        return Short(head, len(name) - room, len(name))
    return Short(head, start, start + room - 1, "…")


def _digest(name: str, width: int) -> Short:
    digits = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
    return Short(_first(name, max(0, width - 1 - DIGITS)), end=digits)


def _even(name: str) -> bool:
    """Whether each character takes one column: none takes two, or none."""
    plain = name.isascii() and name.isprintable()  # as nearly all are: told at once
    return plain or all(cell_len(character) == 1 for character in name)


def _first(name: str, width: int) -> int:
    """So many characters fit into those columns."""
    return len(set_cell_size(name, width).rstrip()) if cell_len(name) > width else len(name)
