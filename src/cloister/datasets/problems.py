"""Problem: what is wrong with one row of a source, by line, field and rule, never by content.

Knows how a problem is worded and counted; it does not know the formats that find them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cloister.errors import InvalidInput

_SHOWABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z")


UNKNOWN = "unknown field"
_HINTS = (
    ("invalid UTF-8 ", "Text from Windows is read with --encoding windows-1252."),
    (UNKNOWN, "Fields that may be there besides are named with --ignore."),
)
"""How a rule that is broken begins, and what helps often."""
_WEIGHTS = (".weight", ".train")
_OF_TURNS = (
    "Which turns are learnt a run says for all rows (`loss_on`): what a turn says of itself can be left out with "
    "--ignore, and is then not heeded."
)


class Fault(NamedTuple):
    """One broken rule inside a row. `field` is empty where the row as a whole is meant."""

    field: str
    rule: str


class Problem(NamedTuple):
    """One broken rule, at the line (from 1) on which its row begins, or at a `place` where there are no lines.
    `source` is which file, where there are several."""

    line: int
    field: str
    rule: str
    place: str = ""
    source: str = ""

    def format(self, source_name: str) -> str:
        """`file:line: field: rule`, on one line whatever the file is called."""
        name = "".join(c if c.isprintable() else "?" for c in self.source or source_name)
        return f"{name}:{self.place or self.line}: {self.field or 'row'}: {self.rule}"


class Unreadable(InvalidInput):
    """A source breaks off: what follows cannot be told apart any more. `line` is 0 where it is not known.

    Raised by what reads a format; the import adds the file's name and counts it as a problem.
    """

    def __init__(self, rule: str, *, line: int = 0, place: str = "", remedy: str | None = None) -> None:
        super().__init__(rule, remedy=remedy)
        self.line = line
        self.place = place


def shown_name(name: str, position: int) -> str:
    """How a field name that comes from the source is shown: itself where it is a short ASCII word,
    else its position (from 1), because a name can be content too."""
    return name if _SHOWABLE.match(name) else f"field {position}"


class ProblemLog:
    """Hands each problem on at once and keeps only counts, so that any number of them fits."""

    def __init__(self, report: Callable[[Problem], None]) -> None:
        self._report = report
        self.rows = 0
        self.problems = 0
        self.source = ""
        """The file that is read now, where there are several."""
        self.hints: dict[str, None] = {}
        """What may help, in the order in which it came up."""

    def add(self, line: int, faults: Iterable[Fault], place: str = "") -> None:
        """Report all faults of the one bad row at `line`, or at `place`."""
        self.rows += 1
        for fault in faults:
            self.problems += 1
            self.hints.update((hint, None) for hint in _hints(fault))
            self._report(Problem(line, fault.field, fault.rule, place, self.source))


def _hints(fault: Fault) -> list[str]:
    if fault.rule.startswith(UNKNOWN) and fault.field.endswith(_WEIGHTS):
        return [_OF_TURNS]
    return [hint for rule, hint in _HINTS if fault.rule.startswith(rule)]
