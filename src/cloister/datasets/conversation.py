"""A row's turns as chat templates take them, tool calls and tools included, and what a template leaves out of them.

Knows rows and the form in which transformers hands conversations to a template; no tokenizer.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from cloister.datasets.rows import Row
from cloister.errors import InvalidInput


@dataclass(frozen=True)
class Conversation:
    """`turns` as templates read them, arguments of calls parsed; `tools` is the text of a JSON array, or None."""

    turns: list[dict[str, Any]]
    tools: str | None


def conversation(row: Row, turns: int | None = None) -> Conversation:
    """The first `turns` turns of a row (all by default), with its tools.

    Calls and their answers have ids, as clients of OpenAI's API give them; a row keeps none, so they are counted. They
    are of the form that Mistral's templates ask for, nine letters and digits.
    """
    found: list[dict[str, Any]] = []
    made = 0
    waiting: deque[tuple[str, str]] = deque()
    for message in row.messages[:turns]:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            waiting.clear()
            turn["tool_calls"] = []
            for call in message.tool_calls:
                made += 1
                waiting.append((f"call{made:05}", call.name))
                function = {"name": call.name, "arguments": json.loads(call.arguments)}
                turn["tool_calls"].append({"id": f"call{made:05}", "type": "function", "function": function})
        elif message.role == "tool" and waiting:
            turn["tool_call_id"], turn["name"] = waiting.popleft()
        found.append(turn)
    return Conversation(found, row.tools)


def tool_fault(row: Row, text_of: Callable[[Conversation], str]) -> str | None:
    """What a template does not say of a row's tools, calls and their results; None where it says all of them.

    Each is taken out in turn: where the text stays the same, the template never wrote it.
    """
    if row.tools is None and not any(m.tool_calls or m.role == "tool" for m in row.messages):
        return None
    try:
        whole = conversation(row)
        text = text_of(whole)
        for what, without in _without(whole):
            if text_of(without) == text:
                return f"has {what} that this chat template leaves out"
    except InvalidInput:
        return "has tools in a form that this chat template refuses"
    except (ValueError, TypeError):
        return "has tools that are no JSON"
    return None


def turn_fault(row: Row, text: str, learnt: Collection[int]) -> str | None:
    """What a template does not say of a row's own words, judged by the text that it made of all of the row; None
    where it says all of them.

    Looked for are the system's turn, the user's, and the assistant's at the positions in `learnt`: what is not learnt
    a template may shorten, as some do with earlier thoughts. Calls and what answers them are `tool_fault`'s.
    """
    for position, message in enumerate(row.messages):
        known = message.role in _SPOKEN and (message.role != "assistant" or position in learnt)
        if known and not message.tool_calls and not _stands_in(text, message.content):
            return f"has {_SPOKEN[message.role]} that this chat template leaves out, or part of it"
    return None


_SPOKEN = {"system": "a system turn", "user": "a user's turn", "assistant": "an answer"}


def _stands_in(text: str, content: str) -> bool:
    """Whether it is there: trimmed, with other white space, or as a JSON string has it."""
    if content.strip() in text:
        return True
    return (
        "".join(content.split()) in "".join(text.split())
        or json.dumps(content, ensure_ascii=False)[1:-1] in text
    )


def _without(whole: Conversation) -> Iterator[tuple[str, Conversation]]:
    if whole.tools is not None:
        yield "tools", replace(whole, tools=None)
    for number, turn in enumerate(whole.turns):
        calls = turn.get("tool_calls", [])
        for gone in range(len(calls)):
            for other in _changed(calls[gone]["function"]):
                changed = [*calls[:gone], calls[gone] | {"function": other}, *calls[gone + 1 :]]
                yield "a tool call", _turn(whole, number, {"tool_calls": changed})
        if turn["role"] == "tool" and turn["content"]:
            yield "a tool's answer", _turn(whole, number, {"content": ""})
        if calls and turn["content"].strip():
            yield "text beside a tool call", _turn(whole, number, {"content": ""})


def _changed(function: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Another function's call, and a call with other arguments: as many calls as before."""
    return function | {"name": function["name"] + "_"}, function | {"arguments": {"_": 0}}


def _turn(whole: Conversation, number: int, changes: dict[str, Any]) -> Conversation:
    turns = [*whole.turns]
    turns[number] = turns[number] | changes
    return replace(whole, turns=turns)
