"""The rules that every row obeys, whatever format it came in.

A system turn only at the start, then user and assistant in turns, the assistant last; a turn that calls tools is
answered by one tool turn a call; no turn empty, none with a NUL character; a plain text has no turns. Knows rows;
it does not know formats, lines or files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import TypeGuard, cast

from cloister.datasets.problems import Fault
from cloister.datasets.rows import Message, Role, Row

EMPTY = "is empty"
NUL = "contains a NUL character"
NOT_TEXT = "must be a string"
MISSING = "is missing"
MAX_GROUP = 256
"""Characters of a group's value: more is no site or product, but text."""


def are_texts(contents: Collection[str | None]) -> TypeGuard[Collection[str]]:
    """Whether each is a text that is not empty. For texts that were decoded from UTF-8 and hold no NUL character,
    `text_fault` then finds nothing."""
    return all(contents) and not any(map(str.isspace, cast("Collection[str]", contents)))


def are_groups(values: Iterable[str | None]) -> bool:
    """As `are_texts`, for values of a group, which may be missing: `group_fault` finds nothing."""
    return not any(value and (len(value) > MAX_GROUP or value.isspace()) for value in values)


def in_order(roles: Sequence[Role], lengths: Sequence[int]) -> bool:
    """Whether rows of so many turns have these roles, one row after another, in an order that breaks no rule.
    Rows with turns of tools are not known to."""
    return min(lengths, default=2) >= 2 and list(chain.from_iterable(map(_order, lengths))) == roles


def _order(length: int) -> tuple[Role, ...]:
    """The roles of so many turns: only the system's makes their number odd."""
    return _USUAL[length] if length < len(_USUAL) else _alternating(length)


def _alternating(length: int) -> tuple[Role, ...]:
    pairs: tuple[Role, ...] = ("user", "assistant") * (length // 2)
    return ("system", *pairs) if length % 2 else pairs


_USUAL = tuple(map(_alternating, range(32)))


def text_fault(content: str) -> str | None:
    """The rule that a turn's text breaks, if any."""
    if not content or content.isspace():
        return EMPTY
    if "\0" in content:
        return NUL
    try:
        content.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair"
    return None


def group_fault(value: str) -> str | None:
    """The rule that a group's value breaks, if any."""
    if rule := text_fault(value):
        return rule
    return f"is longer than {MAX_GROUP} characters, too long for a group" if len(value) > MAX_GROUP else None


def turn_faults(messages: Sequence[Message]) -> list[Fault]:
    """Every broken rule of order and content, in the order of the turns."""
    if not messages:
        return [Fault("messages", EMPTY)]
    faults: list[Fault] = []
    previous = None
    open_calls = 0
    for position, message in enumerate(messages):
        field = f"messages[{position}]"
        if rule := _order_fault(message, position, previous, open_calls):
            faults.append(Fault(f"{field}.role", rule))
        if (message.content or not message.tool_calls) and (rule := text_fault(message.content)):
            faults.append(Fault(f"{field}.content", rule))
        if message.tool_calls and message.role != "assistant":
            faults.append(Fault(f"{field}.tool_calls", "only the assistant calls tools"))
        open_calls = max(0, open_calls - 1) if message.role == "tool" else len(message.tool_calls)
        if message.role != "system":
            previous = message.role
    if messages[-1].role != "assistant":
        faults.append(Fault(f"messages[{len(messages) - 1}].role", "the last turn must be the assistant's"))
    return faults


def _order_fault(message: Message, position: int, previous: str | None, open_calls: int) -> str | None:
    role = message.role
    if role == "tool":
        return None if open_calls else "answers no call of the assistant's turn before it"
    if open_calls:
        return f"comes before {open_calls} of the calls before it are answered"
    if role == "system":
        return "a system turn may only come first" if position else None
    if role == previous:
        return f"two {role} turns in a row"
    if role == "assistant" and previous is None:
        return "the first turn after the system's must be the user's"
    if role == "user" and previous == "tool":
        return "after a tool's answer comes the assistant's turn"
    return None


def row_faults(row: Row) -> list[Fault]:
    """Every broken rule of a row."""
    faults: list[Fault] = []
    if row.text is not None:
        if rule := text_fault(row.text):
            faults.append(Fault("text", rule))
        faults += [
            Fault(name, "a plain text has none")
            for name, there in (("messages", row.messages), ("label", row.label), ("tools", row.tools))
            if there
        ]
    else:
        faults += turn_faults(row.messages)
        if row.label is not None and not faults and row.label != row.answer:
            faults.append(Fault("label", "must be the same as the assistant's last answer"))
    for name, value in row.groups.items():
        if rule := group_fault(value):
            faults.append(Fault(name, rule))
    return faults
