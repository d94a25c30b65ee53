"""What a JSON object of a source may be: the protocol of its shapes, and the checks that they share.

Each shape knows its fields twice: as a typed decoder that is fast, and as an exact check of a plain
value that names every broken rule. None knows lines, files or sealing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from cloister.datasets.problems import UNKNOWN, Fault, shown_name
from cloister.datasets.rows import Message, Row
from cloister.datasets.validate import MISSING, NOT_TEXT, group_fault, text_fault


class JsonObject(dict[str, Any]):
    """A decoded JSON object that remembers which of its keys came more than once."""

    repeated: tuple[str, ...] = ()


class Number:
    """A decoded JSON number, as its text: a huge one costs nothing."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class AtOnce(NamedTuple):
    """The rows of some typed values, and what their lines must then have held.

    `names` counts the names of fields, `strings` those and the texts. `texts` are all that somebody wrote.
    """

    rows: list[Row]
    names: int
    strings: int
    texts: Sequence[str]


class QuickShape(Protocol):
    """The typed way of reading lines, for what nothing is doubtful in."""

    @property
    def keys(self) -> re.Pattern[bytes] | None:
        """Finds every one of its field names as it stands in the source, the first quote included; None where no
        other field can be there, so that every string of a line is known."""

    @property
    def decode(self) -> Callable[[bytes], Any]:
        """A typed value from one line; raises on anything doubtful."""

    def at_once(self, items: Sequence[Any]) -> AtOnce | None:
        """The rows of typed values, None where a rule may be broken in one of them other than that no text
        holds a NUL character. A name that comes twice in an object, or a value that reads like one, makes more
        names and strings of its line than are told; no line has fewer.
        """


class Shape(Protocol):
    """What one line of a JSON lines file holds."""

    @property
    def name(self) -> str: ...

    @property
    def quick(self) -> QuickShape | None:
        """The typed way; None where every line goes the exact one."""

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        """The row of a plain value, or every rule that it breaks."""


def build_row(
    system: str | None, user: str, answer: str, label: str | None, groups: dict[str, str] | None = None
) -> Row:
    """A row of one question and one answer."""
    turns = (Message("user", user), Message("assistant", answer))
    return Row((Message("system", system), *turns) if system else turns, label, groups=groups or {})


def rows_of_turns(
    turns: Sequence[tuple[Message, ...]],
    labels: Sequence[str | None],
    groups: Sequence[dict[str, str]],
) -> list[Row]:
    """A row of each conversation; `labels` and `groups` are as many, or empty where there are none."""
    if groups:
        labels = labels or [None] * len(turns)
        return [
            Row(each, label, groups=held) for each, label, held in zip(turns, labels, groups, strict=True)
        ]
    return list(map(Row, turns, labels)) if labels else list(map(Row, turns))


def key_pattern(names: Iterable[str]) -> re.Pattern[bytes]:
    """Finds these names where a JSON string begins with one."""
    return re.compile(b'"(?:%s)' % b"|".join(re.escape(msgspec.json.encode(name)[1:]) for name in names))


def object_faults(
    value: Any,
    field: str,
    known: Sequence[str],
    *,
    optional: Sequence[str] = (),
    ignored: Sequence[str] = (),
    closed: bool = True,
) -> list[Fault]:
    """Whether `value` is an object with the `known` keys, each once, and no other unless it is open.

    A key that is not known and holds null, or an empty array or object, says nothing, so it may be there.
    """
    if not isinstance(value, dict):
        return [Fault(field, "must be an object")]
    prefix = f"{field}." if field else ""
    faults = [Fault(prefix + name, MISSING) for name in known if name not in value]
    wanted = (*known, *optional)
    places = {key: place for place, key in enumerate(value, 1)}
    for key in getattr(value, "repeated", ()):
        if (closed and key not in ignored) or key in wanted:
            faults.append(Fault(prefix + _shown(key, wanted, places), "comes twice in one object"))
    if closed:
        only = ", ".join(wanted)
        for key, place in places.items():
            if key not in wanted and key not in ignored and value[key] not in (None, [], {}):
                faults.append(Fault(prefix + shown_name(key, place), f"{UNKNOWN}; only {only} may be there"))
    return faults


def _shown(key: str, wanted: Sequence[str], places: Mapping[str, int]) -> str:
    return key if key in wanted else shown_name(key, places[key])


def text_of(value: Mapping[str, Any], name: str, faults: list[Fault]) -> str | None:
    """The text in a field, None where it is missing or at fault."""
    if name not in value:
        return None
    text = value[name]
    if not isinstance(text, str):
        faults.append(Fault(name, NOT_TEXT))
        return None
    if rule := text_fault(text):
        faults.append(Fault(name, rule))
        return None
    return text


def optional_text_of(value: Mapping[str, Any], name: str, faults: list[Fault]) -> str | None:
    """The text in a field that may be missing, null or empty."""
    return None if value.get(name) is None or value[name] == "" else text_of(value, name, faults)


def label_of(value: Mapping[str, Any], name: str, faults: list[Fault]) -> str | None:
    """The class in a field; a number, true and false count as their text."""
    held = _as_text(value.get(name))
    return text_of({name: held} if name in value else {}, name, faults)


def _as_text(held: Any) -> Any:
    """A number, true and false as JSON spells them; anything else as it is."""
    if isinstance(held, Number):
        return held.text
    return str(held).lower() if isinstance(held, int) else held


def groups_of(value: Mapping[str, Any], names: Sequence[str], faults: list[Fault]) -> dict[str, str]:
    """The groups that a row belongs to. Null and empty mean none; a number counts as its text."""
    groups: dict[str, str] = {}
    for name in names:
        held = _as_text(value.get(name))
        if held is None or held == "":
            continue
        if not isinstance(held, str):
            faults.append(Fault(name, "must be a string or a number to be a group"))
        elif rule := group_fault(held):
            faults.append(Fault(name, rule))
        else:
            groups[name] = held
    return groups
