"""The rules that every row obeys, whatever format it came in.

A system turn only at the start, then user and assistant in turns, the assistant last; a turn that calls tools is
answered by one tool turn a call; no turn empty, none with a NUL character; a plain text has no turns. Knows rows;
it does not know formats, lines or files.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloister.datasets.problems import Fault
from cloister.datasets.rows import Message, Row

EMPTY = "is empty"
NUL = "contains a NUL character"
NOT_TEXT = "must be a string"
MISSING = "is missing"
MAX_GROUP = 256
"""Characters of a group's value: more is no site or product, but text."""


def is_sound(row: Row) -> bool:
    """Whether it is known at a glance that `row_faults` would find nothing. Rows with tool calls never are."""
    turns = row.messages
    if row.groups and not all(map(_is_short, row.groups.values())):
        return False
    if row.text is not None:
        return not turns and not is_bad_text(row.text) and row.label is None and row.tools is None
    if row.tools is not None:
        return False
    if turns and turns[0].role == "system":
        if is_bad_text(turns[0].content):
            return False
        turns = turns[1:]
    if not turns or len(turns) & 1:
        return False
    user = True
    for turn in turns:
        if turn.role != ("user" if user else "assistant") or is_bad_text(turn.content) or turn.tool_calls:
            return False
        user = not user
    return row.label is None or row.label == row.messages[-1].content


def _is_short(value: str) -> bool:
    return len(value) <= MAX_GROUP and not is_bad_text(value)


def is_bad_text(content: str) -> bool:
    """Whether `text_fault` would name a rule, for text that was decoded from UTF-8."""
    return not content or content.isspace() or "\0" in content


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
