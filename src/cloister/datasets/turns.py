"""Turns as OpenAI's chats and ShareGPT spell them, or as somebody has said: roles, texts, tools' calls and answers.

Knows lists of turns; it does not know what stands beside them in a row, nor the rules of their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from cloister.api import ColumnMap
from cloister.datasets.problems import Fault
from cloister.datasets.rows import Message, Role, ToolCall
from cloister.datasets.shapes import object_faults
from cloister.datasets.toolcalls import call_of, calls_of, parsed
from cloister.datasets.validate import NOT_TEXT


class Spelling(NamedTuple):
    """How a source spells turns: the field that lists them, those of a turn, and the roles."""

    name: str
    turns: str
    role: str
    content: str
    roles: Mapping[str, Role]
    calls: str | None = None
    """The role whose content is the text of a call (ShareGPT)."""


_CALLS = ("tool_calls", "function_call")
CHAT_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
CHAT = Spelling("chat", "messages", "role", "content", CHAT_ROLES)
CONVERSATIONS = CHAT._replace(
    turns="conversations", roles={**CHAT_ROLES, "human": "user", "gpt": "assistant"}
)
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


def spelt(columns: ColumnMap, first: Mapping[str, Any]) -> Spelling:
    """How the turns of a mapped column are spelt: as the first one is, but for what was mapped itself."""
    known = SHAREGPT if SHAREGPT.role in first and columns.role is None else CONVERSATIONS
    return known._replace(
        turns=columns.messages or known.turns,
        role=columns.role or known.role,
        content=columns.content or known.content,
        roles={**known.roles, **columns.roles},
    )


def first_turn(turns: Any) -> Mapping[str, Any]:
    """The first turn of a list, or of a text that holds one; empty where there is none."""
    listed = _listed(turns)
    return listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}


class _Turn(NamedTuple):
    """A turn, the ids of its calls, and the id of the call that it answers."""

    message: Message
    position: int
    ids: tuple[str | None, ...] = ()
    answers: str | None = None


def _listed(value: Any) -> Any:
    """What a text of JSON holds, where it holds an array; else the value itself."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parsed(value)
        except (ValueError, RecursionError):
            return value
    return value


def turns_of(
    value: Any, field: str, spelling: Spelling, faults: list[Fault], ignored: Sequence[str] = ()
) -> tuple[Message, ...]:
    """A list of turns, or the text of one; tool turns in the order of the calls that they answer. A system turn
    without text says nothing and is left out.

    Args:
        ignored: fields that a turn may have besides its own.
    """
    value = _listed(value)
    if not isinstance(value, list):
        faults.append(Fault(field, "must be an array of turns"))
        return ()
    before = len(faults)
    turns: list[_Turn] = []
    for position, held in enumerate(value):
        found: list[Fault] = []
        turn = _turn(held, f"{field}[{position}]", position, spelling, found, ignored)
        faults += found
        if turn is not None and not found:
            turns.append(turn)
    if len(faults) > before:
        return ()
    return tuple(turn.message for turn in _in_order(turns, field, faults))


def _turn(
    value: Any,
    field: str,
    position: int,
    spelling: Spelling,
    faults: list[Fault],
    ignored: Sequence[str] = (),
) -> _Turn | None:
    names = (spelling.role, spelling.content)
    if not isinstance(value, dict):
        faults.append(Fault(field, "must be an object"))
        return None
    spelt = value.get(spelling.role)
    role = spelling.roles.get(spelt) if isinstance(spelt, str) else None
    calling = role == "assistant" and spelling.calls is None and any(map(_says, map(value.get, _CALLS)))
    optional: tuple[str, ...] = ()
    if spelling.calls is None and role == "assistant":
        optional = _CALLS
    elif spelling.calls is None and role == "tool":
        optional = ("tool_call_id", "name")
    known = (spelling.role,) if calling else names
    faults += object_faults(
        value, field, known, optional=(*names[1:], *optional) if calling else optional, ignored=ignored
    )
    if spelling.role in value and role is None:
        listed = ", ".join(spelling.roles)
        faults.append(Fault(f"{field}.{spelling.role}", f"must be one of {listed}"))
    if position == 0 and role == "system" and not faults and _says_nothing(value[spelling.content]):
        return None
    content = _content(value, f"{field}.{spelling.content}", spelling, calling, faults)
    if faults or role is None or content is None:
        return None
    if spelt == spelling.calls:
        return _called(content, f"{field}.{spelling.content}", position, faults)
    if calling:
        calls, ids = _called_in(value, field, faults)
        return _Turn(Message(role, content, calls), position, ids)
    answers = value.get("tool_call_id") if role == "tool" else None
    if answers is not None and not isinstance(answers, str):
        faults.append(Fault(f"{field}.tool_call_id", NOT_TEXT))
        return None
    return _Turn(Message(role, content), position, answers=answers)


def _says(calls: Any) -> bool:
    return calls not in (None, [], {})


def _says_nothing(content: Any) -> bool:
    return content is None or (isinstance(content, str) and not content.strip())


def _called_in(
    value: Mapping[str, Any], field: str, faults: list[Fault]
) -> tuple[tuple[ToolCall, ...], tuple[str | None, ...]]:
    """The calls of an assistant's turn: `tool_calls`, or the one `function_call` that OpenAI had before."""
    if not _says(value.get("function_call")):
        return calls_of(value["tool_calls"], f"{field}.tool_calls", faults)
    if _says(value.get("tool_calls")):
        faults.append(Fault(f"{field}.function_call", "stands beside `tool_calls`"))
    call = call_of(value["function_call"], f"{field}.function_call", faults)
    return ((call,), (None,)) if call is not None else ((), ())


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
