"""The rules that every row obeys, whatever format it came in.

A system turn only at the start, then user and assistant in turns, the assistant last; no turn empty,
none with a NUL character. Knows rows; it does not know formats, lines or files.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloister.datasets.problems import Fault
from cloister.datasets.rows import Message, Row

EMPTY = "is empty"
NUL = "contains a NUL character"
NOT_TEXT = "must be a string"
MISSING = "is missing"


def is_sound(row: Row) -> bool:
    """Whether `row_faults` would find nothing; the quick answer for the usual case."""
    turns = row.messages
    if turns and turns[0].role == "system":
        if is_bad_text(turns[0].content):
            return False
        turns = turns[1:]
    if not turns or len(turns) & 1:
        return False
    user = True
    for turn in turns:
        if (turn.role == "user") is not user or turn.role == "system" or is_bad_text(turn.content):
            return False
        user = not user
    return row.label is None or row.label == row.messages[-1].content


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


def turn_faults(messages: Sequence[Message]) -> list[Fault]:
    """Every broken rule of order and content, in the order of the turns."""
    if not messages:
        return [Fault("messages", EMPTY)]
    faults: list[Fault] = []
    previous = None
    for position, message in enumerate(messages):
        field = f"messages[{position}]"
        if message.role == "system":
            if position:
                faults.append(Fault(f"{field}.role", "a system turn may only come first"))
        elif previous == message.role:
            faults.append(Fault(f"{field}.role", f"two {message.role} turns in a row"))
        elif message.role == "assistant" and previous is None:
            faults.append(Fault(f"{field}.role", "the first turn after the system's must be the user's"))
        if rule := text_fault(message.content):
            faults.append(Fault(f"{field}.content", rule))
        if message.role != "system":
            previous = message.role
    if messages[-1].role != "assistant":
        faults.append(Fault(f"messages[{len(messages) - 1}].role", "the last turn must be the assistant's"))
    return faults


def row_faults(row: Row) -> list[Fault]:
    """Every broken rule of a row."""
    faults = turn_faults(row.messages)
    if row.label is not None and not faults and row.label != row.answer:
        faults.append(Fault("label", "must be the same as the assistant's last answer"))
    return faults
