"""Rows that are conversations: chat `messages`, ShareGPT `conversations`, and prompts and completions of turns.

Knows how each spells a turn, a role and a tool's call; the rules that hold for every row are in `validate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec

from cloister.datasets.problems import Fault
from cloister.datasets.rows import Message, Role, Row
from cloister.datasets.shapes import groups_of, key_pattern, object_faults, optional_text_of, text_of
from cloister.datasets.toolcalls import call_of, calls_of, parsed, tools_text
from cloister.datasets.validate import NOT_TEXT, row_faults


class Spelling(NamedTuple):
    """How a source spells turns: the field that lists them, those of a turn, and the roles."""

    name: str
    turns: str
    role: str
    content: str
    roles: Mapping[str, Role]
    calls: str | None = None
    """The role whose content is the text of a call (ShareGPT)."""


_CHAT_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
CHAT = Spelling("chat", "messages", "role", "content", _CHAT_ROLES)
CONVERSATIONS = CHAT._replace(name="chat", turns="conversations")
SHAREGPT = Spelling(
    "sharegpt",
    "conversations",
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "function_call": "assistant",
        "observation": "tool",
        "tool": "tool",
    },
    calls="function_call",
)


class _Turn(NamedTuple):
    """A turn, the ids of its calls, and the id of the call that it answers."""

    message: Message
    position: int
    ids: tuple[str | None, ...] = ()
    answers: str | None = None


class ConversationShape:
    """An object that lists its turns; `tools`, a `system` text (ShareGPT), `label` and groups may stand beside.

    Args:
        spelling: of the turns.
        labelled: whether `label` is there; it repeats the last answer.
        system: the system turn of every row that brings none.
    """

    def __init__(
        self,
        spelling: Spelling,
        *,
        labelled: bool = False,
        system: str | None = None,
        groups: Sequence[str] = (),
        ignored: Sequence[str] = (),
        closed: bool = True,
    ) -> None:
        self.name = spelling.name
        self._spelling = spelling
        self._labelled = labelled
        self._system = Message("system", system) if system else None
        self._groups = tuple(groups)
        self._known = (spelling.turns, *(("label",) if labelled else ()), *self._groups)
        self._optional = ("tools", "system") if spelling.calls else ("tools",)
        self._ignored = tuple(n for n in ignored if n not in (*self._known, *self._optional))
        self._closed = closed
        self._own = spelling.role == "role"
        self._spelt_alike = {
            r for r, meant in spelling.roles.items() if meant != "tool" and r != spelling.calls
        }
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._wire()).decode
        # `tool_calls` may be decoded but are not counted in `occurrences`: lines with them go the exact way.
        names = (spelling.role, spelling.content, "tool_calls")
        self.keys: re.Pattern[bytes] = key_pattern([*self._known, *names])

    def _wire(self) -> type:
        """The type of a usual line. OpenAI's turns are decoded straight into ours; tools are then doubtful."""
        spelling = self._spelling
        turn: Any = Message
        if not self._own:
            roles = Literal[tuple(sorted(self._spelt_alike))]  # type: ignore[valid-type]
            turn = msgspec.defstruct(
                "Turn",
                [("role", roles), ("content", str)],
                rename={"role": spelling.role, "content": spelling.content},
                frozen=True,
                gc=False,
                forbid_unknown_fields=True,
            )
        fields: list[Any] = [("turns", tuple[turn, ...])]
        names = {"turns": spelling.turns}
        if self._labelled:
            fields.append(("label", str))
        for number, name in enumerate(self._groups):
            fields.append((f"g{number}", str))
            names[f"g{number}"] = name
        for number, name in enumerate(self._ignored):
            fields.append((f"i{number}", msgspec.Raw, msgspec.Raw(b"0")))
            names[f"i{number}"] = name
        return msgspec.defstruct(
            "Line",
            fields,
            rename=names,
            frozen=True,
            gc=False,
            kw_only=True,
            forbid_unknown_fields=self._closed,
        )

    def build(self, item: Any) -> Row:
        if self._own:
            messages = item.turns
        else:
            roles = self._spelling.roles
            messages = tuple([Message(roles[turn.role], turn.content) for turn in item.turns])
        groups = {}
        if self._groups:
            held = [getattr(item, f"g{number}") for number in range(len(self._groups))]
            groups = {name: value for name, value in zip(self._groups, held, strict=True) if value}
        return self._led(Row(messages, item.label if self._labelled else None, groups=groups))

    def _led(self, row: Row) -> Row:
        """With the system turn that every row without one gets."""
        if self._system and row.messages and row.messages[0].role != "system":
            return msgspec.structs.replace(row, messages=(self._system, *row.messages))
        return row

    def occurrences(self, items: Sequence[Any]) -> int:
        return len(items) * len(self._known) + 2 * sum([len(item.turns) for item in items])

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        known = self._known
        faults = object_faults(
            value, "", known, optional=self._optional, ignored=self._ignored, closed=self._closed
        )
        if not isinstance(value, dict):
            return None, faults
        label = text_of(value, "label", faults) if self._labelled else None
        tools = tools_text(value.get("tools"), faults)
        own = optional_text_of(value, "system", faults) if self._spelling.calls else None
        groups = groups_of(value, self._groups, faults)
        listed = self._spelling.turns
        messages = turns_of(value.get(listed), listed, self._spelling, faults) if listed in value else ()
        if faults:
            return None, faults
        if own and messages and messages[0].role != "system":
            messages = (Message("system", own), *messages)
        return _judged(self._led(Row(messages, label, tools=tools, groups=groups)), listed)


class PairShape:
    """A `prompt` and a `completion` that are lists of turns, as TRL writes them; together one conversation."""

    name = "prompt-completion"
    keys = key_pattern(["prompt", "completion"])

    def __init__(
        self,
        *,
        system: str | None = None,
        groups: Sequence[str] = (),
        ignored: Sequence[str] = (),
        closed: bool = True,
    ) -> None:
        self._system = Message("system", system) if system else None
        self._groups = tuple(groups)
        self._ignored = tuple(ignored)
        self._closed = closed
        self.decode: Callable[[bytes], Any] = _never

    def build(self, item: Any) -> Row:
        raise NotImplementedError  # every row goes the exact way

    def occurrences(self, items: Sequence[Any]) -> int:
        return -1

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        known = ("prompt", "completion", *self._groups)
        faults = object_faults(
            value, "", known, optional=("tools",), ignored=self._ignored, closed=self._closed
        )
        if not isinstance(value, dict):
            return None, faults
        tools = tools_text(value.get("tools"), faults)
        groups = groups_of(value, self._groups, faults)
        halves = [
            turns_of(value[name], name, CHAT, faults) if name in value else ()
            for name in ("prompt", "completion")
        ]
        if not faults and not all(halves):
            faults = [Fault(n, "is empty") for n, half in zip(known, halves, strict=False) if not half]
        if faults:
            return None, faults
        messages = (*halves[0], *halves[1])
        if self._system and messages[0].role != "system":
            messages = (self._system, *messages)
        return _judged(Row(messages, tools=tools, groups=groups), "messages")


def _never(_: bytes) -> Any:
    raise msgspec.DecodeError


def _judged(row: Row, listed: str) -> tuple[Row | None, list[Fault]]:
    """The row, or its broken rules, told by the name that the source has for its turns."""
    if faults := row_faults(row):
        if listed != "messages":
            faults = [Fault(re.sub(r"^messages\b", listed, f.field), f.rule) for f in faults]
        return None, faults
    return row, []


def turns_of(value: Any, field: str, spelling: Spelling, faults: list[Fault]) -> tuple[Message, ...]:
    """A list of turns; tool turns in the order of the calls that they answer."""
    if not isinstance(value, list):
        faults.append(Fault(field, "must be an array of turns"))
        return ()
    before = len(faults)
    turns: list[_Turn] = []
    for position, held in enumerate(value):
        found: list[Fault] = []
        turn = _turn(held, f"{field}[{position}]", position, spelling, found)
        faults += found
        if turn is not None and not found:
            turns.append(turn)
    if len(faults) > before:
        return ()
    return tuple(turn.message for turn in _in_order(turns, field, faults))


def _turn(value: Any, field: str, position: int, spelling: Spelling, faults: list[Fault]) -> _Turn | None:
    names = (spelling.role, spelling.content)
    if not isinstance(value, dict):
        faults.append(Fault(field, "must be an object"))
        return None
    spelt = value.get(spelling.role)
    role = spelling.roles.get(spelt) if isinstance(spelt, str) else None
    calling = role == "assistant" and spelling.calls is None and value.get("tool_calls") not in (None, [])
    optional: tuple[str, ...] = ()
    if spelling.calls is None and role == "assistant":
        optional = ("tool_calls",)
    elif spelling.calls is None and role == "tool":
        optional = ("tool_call_id", "name")
    known = (spelling.role,) if calling else names
    faults += object_faults(value, field, known, optional=(*names[1:], *optional) if calling else optional)
    if spelling.role in value and role is None:
        listed = ", ".join(spelling.roles)
        faults.append(Fault(f"{field}.{spelling.role}", f"must be one of {listed}"))
    content = _content(value, f"{field}.{spelling.content}", spelling, calling, faults)
    if faults or role is None or content is None:
        return None
    if spelt == spelling.calls:
        return _called(content, f"{field}.{spelling.content}", position, faults)
    if calling:
        calls, ids = calls_of(value["tool_calls"], f"{field}.tool_calls", faults)
        return _Turn(Message(role, content, calls), position, ids)
    answers = value.get("tool_call_id") if role == "tool" else None
    if answers is not None and not isinstance(answers, str):
        faults.append(Fault(f"{field}.tool_call_id", NOT_TEXT))
        return None
    return _Turn(Message(role, content), position, answers=answers)


def _content(
    value: Mapping[str, Any], field: str, spelling: Spelling, calling: bool, faults: list[Fault]
) -> str | None:
    """A turn's text. Parts of type `text` are joined with a line feed, as vLLM joins them."""
    content = value.get(spelling.content)
    if calling and content is None:
        return ""
    if isinstance(content, list) and spelling.calls is None:
        texts: list[str] = []
        for position, part in enumerate(content):
            at = f"{field}[{position}]"
            if not isinstance(part, dict) or part.get("type") != "text":
                faults.append(Fault(at, "must be a part of type `text`"))
                continue
            found = object_faults(part, at, ("type", "text"))
            if not found and not isinstance(part["text"], str):
                found = [Fault(f"{at}.text", NOT_TEXT)]
            faults += found
            if not found:
                texts.append(cast(str, part["text"]))
        return "\n".join(texts)
    if not isinstance(content, str):
        if spelling.content in value:
            faults.append(Fault(field, NOT_TEXT))
        return None
    return content


def _called(content: str, field: str, position: int, faults: list[Fault]) -> _Turn | None:
    """ShareGPT's `function_call`: the text of one call, or of a list of them."""
    try:
        value = parsed(content)
    except (ValueError, RecursionError):
        faults.append(Fault(field, "must be the text of a JSON object with `name` and `arguments`"))
        return None
    if isinstance(value, list):
        calls, _ = calls_of(value, field, faults)
    else:
        call = call_of(value, field, faults)
        calls = (call,) if call is not None else ()
    if not calls and not faults:
        faults.append(Fault(field, "calls nothing"))
    return _Turn(Message("assistant", "", calls), position, (None,) * len(calls))


def _in_order(turns: Sequence[_Turn], field: str, faults: list[Fault]) -> list[_Turn]:
    """Tool turns moved to the order of the calls whose ids they name. Without ids they stand in order."""
    ordered: list[_Turn] = []
    at = 0
    while at < len(turns):
        turn = turns[at]
        ordered.append(turn)
        at += 1
        answers = []
        while turn.ids and at < len(turns) and turns[at].message.role == "tool":
            answers.append(turns[at])
            at += 1
        if not turn.ids or None in turn.ids:
            ordered += answers
            continue
        seen: set[str] = set()
        for answer in answers:
            name = answer.answers
            if name is None:
                continue
            if name not in turn.ids or name in seen:
                rule = (
                    "is answered twice" if name in seen else "names no call of the assistant's turn before it"
                )
                faults.append(Fault(f"{field}[{answer.position}].tool_call_id", rule))
            seen.add(name)
        if len(seen) == len(answers) and seen <= set(turn.ids):
            answers.sort(key=lambda answer: turn.ids.index(answer.answers))
        ordered += answers
    return ordered
