"""The shapes that a JSON object may have: chat `messages`, `prompt`/`completion`, mapped columns.

Each shape knows its fields twice: as a typed decoder that is fast, and as an exact check of a plain
value that names every broken rule. Neither knows lines, files or sealing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import msgspec

from cloister.api import ColumnMap
from cloister.datasets.problems import Fault, shown_name
from cloister.datasets.rows import Message, Row
from cloister.datasets.validate import MISSING, NOT_TEXT, row_faults, text_fault

ROLES = ("system", "user", "assistant")


class JsonObject(dict[str, Any]):
    """A decoded JSON object that remembers which of its keys came more than once."""

    repeated: tuple[str, ...] = ()


class Shape(Protocol):
    """What one line of a JSON lines file holds."""

    @property
    def name(self) -> str: ...

    @property
    def keys(self) -> re.Pattern[bytes]:
        """Finds every one of its field names as it stands in the source, quotes included."""

    @property
    def decode(self) -> Callable[[bytes], Any]:
        """A typed value from one line; raises on anything doubtful."""

    def build(self, item: Any) -> Row:
        """The row of a typed value."""

    def occurrences(self, items: Sequence[Any]) -> int:
        """How often `keys` are found in the lines of `items` where none comes twice in an object; -1 where
        a field is there that must not be, or not there. A value that reads like a key makes more of them;
        no line has fewer.
        """

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        """The row of a plain value, or every rule that it breaks."""


def build_row(system: str | None, user: str, answer: str, label: str | None) -> Row:
    """A row of one question and one answer."""
    turns = (Message("user", user), Message("assistant", answer))
    return Row((Message("system", system), *turns) if system else turns, label)


class _ChatTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class _ChatLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    messages: tuple[_ChatTurn, ...]
    label: str | None = None


class ChatShape:
    """`{"messages": [{"role": …, "content": …}, …]}`, and `label` where the first row has one."""

    name = "chat"

    def __init__(self, *, labelled: bool, system: str | None) -> None:
        self._labelled = labelled
        self._system = Message("system", system) if system else None
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(_ChatLine).decode
        self.keys = _pattern(["messages", "role", "content", "label"])

    def build(self, item: _ChatLine) -> Row:
        return self._led(Row(tuple([Message(turn.role, turn.content) for turn in item.messages]), item.label))

    def _led(self, row: Row) -> Row:
        """With the system turn that every row without one gets."""
        if self._system and row.messages and row.messages[0].role != "system":
            return Row((self._system, *row.messages), row.label)
        return row

    def occurrences(self, items: Sequence[_ChatLine]) -> int:
        turns = sum([len(item.messages) for item in items])
        labels = sum([item.label is not None for item in items])
        return len(items) + 2 * turns + labels if labels == self._labelled * len(items) else -1

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        known = ("messages", "label") if self._labelled else ("messages",)
        faults = object_faults(value, "", known)
        if not isinstance(value, dict):
            return None, faults
        turns = value.get("messages")
        if "messages" in value and not isinstance(turns, list):
            faults.append(Fault("messages", "must be an array of turns"))
        label = _text(value, "label", faults) if self._labelled else None
        messages: list[Message] = []
        for position, turn in enumerate(turns if isinstance(turns, list) else ()):
            field = f"messages[{position}]"
            found = object_faults(turn, field, ("role", "content"))
            if isinstance(turn, dict):
                role, content = turn.get("role"), turn.get("content")
                if "role" in turn and role not in ROLES:
                    found.append(Fault(f"{field}.role", "must be one of system, user, assistant"))
                if "content" in turn and not isinstance(content, str):
                    found.append(Fault(f"{field}.content", NOT_TEXT))
                if not found:
                    messages.append(Message(cast(Any, role), cast(str, content)))
            faults += found
        if faults:
            return None, faults
        row = Row(tuple(messages), label)
        if faults := row_faults(row):
            return None, faults
        return self._led(row), []


class FieldsShape:
    """One flat object a row: a field for the question, one for the answer, perhaps one for the system turn.

    Args:
        columns: which fields; `label` in place of `output` marks a classification task.
        closed: whether any other field is a fault (so for `prompt`/`completion`), or not looked at
            (so for columns that somebody has mapped).
    """

    def __init__(
        self, columns: ColumnMap, *, closed: bool, system: str | None, labelled: bool = False
    ) -> None:
        self.name = "prompt-completion" if closed else "columns"
        self._columns = columns
        self._closed = closed
        self._system = system
        self._answer = columns.label or columns.output or ""
        self._is_label = columns.label is not None
        self._labelled = labelled
        fields: list[Any] = [("input", str), ("answer", str)]
        names = {"input": columns.input, "answer": self._answer}
        if columns.system:
            fields.append(("system", str | None, None))
            names["system"] = columns.system
        if labelled:
            fields.append(("label", str))
            names["label"] = "label"
        wire = msgspec.defstruct(
            "Fields", fields, rename=names, frozen=True, gc=False, forbid_unknown_fields=closed
        )
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(wire).decode
        self.keys = _pattern(names.values())
        self._required = len(names) - (columns.system is not None)

    def build(self, item: Any) -> Row:
        system = (getattr(item, "system", None) or self._system) if self._columns.system else self._system
        if self._is_label:
            label = item.answer.strip()
            return build_row(system, item.input, label, label)
        return build_row(system, item.input, item.answer, item.label if self._labelled else None)

    def occurrences(self, items: Sequence[Any]) -> int:
        systems = sum([item.system is not None for item in items]) if self._columns.system else 0
        return len(items) * self._required + systems

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        columns = self._columns
        known = tuple(n for n in (columns.input, self._answer, "label" if self._labelled else None) if n)
        optional = (columns.system,) if columns.system else ()
        faults = object_faults(value, "", known, optional=optional, closed=self._closed)
        if not isinstance(value, dict):
            return None, faults
        question = _text(value, columns.input, faults)
        answer = _text(value, self._answer, faults)
        label = _text(value, "label", faults) if self._labelled else None
        system = None
        if columns.system and value.get(columns.system) is not None:
            blank = value[columns.system] == ""
            system = None if blank else _text(value, columns.system, faults)
        if faults or question is None or answer is None:
            return None, faults
        if self._is_label:
            answer = label = answer.strip()
        elif label is not None and label != answer:
            return None, [Fault("label", "must be the same as the assistant's last answer")]
        return build_row(system or self._system, question, answer, label), []


def _pattern(names: Iterable[str]) -> re.Pattern[bytes]:
    return re.compile(b'"(?:%s)' % b"|".join(re.escape(msgspec.json.encode(name)[1:]) for name in names))


def object_faults(
    value: Any, field: str, known: Sequence[str], *, optional: Sequence[str] = (), closed: bool = True
) -> list[Fault]:
    """Whether `value` is an object with the `known` keys, each once, and no other unless it is open."""
    if not isinstance(value, dict):
        return [Fault(field, "must be an object")]
    prefix = f"{field}." if field else ""
    faults = [Fault(prefix + name, MISSING) for name in known if name not in value]
    wanted = (*known, *optional)
    places = {key: place for place, key in enumerate(value, 1)}
    for key in getattr(value, "repeated", ()):
        if closed or key in wanted:
            faults.append(Fault(prefix + _shown(key, wanted, places), "comes twice in one object"))
    if closed:
        only = ", ".join(known)
        for key, place in places.items():
            if key not in wanted:
                faults.append(
                    Fault(prefix + shown_name(key, place), f"unknown field; only {only} may be there")
                )
    return faults


def _shown(key: str, wanted: Sequence[str], places: Mapping[str, int]) -> str:
    return key if key in wanted else shown_name(key, places[key])


def _text(value: Mapping[str, Any], name: str, faults: list[Fault]) -> str | None:
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
