"""Tool definitions and tool calls, as sources spell them, into the JSON texts that a row keeps.

Knows OpenAI's form (`function` inside), the flat one (`name` and `arguments`), and both as the text of JSON. It does
not know turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cloister.datasets.problems import Fault
from cloister.datasets.rows import ToolCall
from cloister.datasets.shapes import JsonObject, Number, object_faults
from cloister.datasets.validate import text_fault

_SPACE = " \t\r\n"
MAX_TOOLS = 256


class NoNumberError(ValueError):
    """NaN or Infinity, which some programs write into JSON."""


class _NoJsonError(Exception):
    """A value that JSON cannot hold; the text is the rule that it breaks."""


def json_text(value: Any) -> str:
    """A decoded value as JSON text, its numbers as they were written.

    Raises:
        _NoJsonError: it holds half of a surrogate pair, a key twice, or something that JSON has not.
    """
    try:
        return "".join(_pieces(value))
    except RecursionError:
        raise _NoJsonError("is nested too deeply") from None


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value and (rule := _encodable(value)):
            raise _NoJsonError(rule)
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, Number):
        yield value.text
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, dict):
        if getattr(value, "repeated", ()):
            raise _NoJsonError("holds an object with a key twice")
        yield "{"
        for number, (key, held) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key)
            yield ": "
            yield from _pieces(held)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, held in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(held)
        yield "]"
    elif isinstance(value, (int, float)) and value == value and abs(value) != float("inf"):
        yield json.dumps(value)
    else:
        raise _NoJsonError("holds what JSON cannot")


def _encodable(text: str) -> str | None:
    rule = text_fault(text)
    return None if rule == "is empty" else rule


def parsed(text: str) -> Any:
    """JSON text as a value whose objects remember repeated keys. Raises ValueError, RecursionError."""
    return DECODER.decode(text.strip(_SPACE))


def tools_text(value: Any, field: str, faults: list[Fault]) -> str | None:
    """A field such as `tools`: an array of functions, or its text, each with a `function` around it or without.

    Gives the text of OpenAI's form, None where there are none, or they are at fault.
    """
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, str):
        try:
            value = parsed(value)
        except (ValueError, RecursionError):
            faults.append(Fault(field, "must be an array of functions, or the text of one"))
            return None
        if value == []:
            return None
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        faults.append(Fault(field, f"must be an array of functions, {MAX_TOOLS} at most"))
        return None
    before = len(faults)
    for position, tool in enumerate(value):
        at = f"{field}[{position}]"
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            faults.append(Fault(at, "must be an object with a `function`"))
        elif not isinstance(name := function.get("name"), str) or text_fault(name):
            faults.append(Fault(f"{at}.function.name", "must be a string that is not empty"))
    text = ""
    try:
        json_text(value)
        text = json_text([_declared(tool) for tool in value]) if len(faults) == before else ""
    except _NoJsonError as error:
        faults.append(Fault(field, str(error)))
    return None if len(faults) > before else text


def _declared(tool: dict[str, Any]) -> dict[str, Any]:
    """In the form in which a client of OpenAI's API will send it, so that templates write both the same."""
    if "function" in tool:
        return {"type": "function", **tool}
    return {"type": "function", "function": {key: held for key, held in tool.items() if key != "type"}}


def calls_of(
    value: Any, field: str, faults: list[Fault]
) -> tuple[tuple[ToolCall, ...], tuple[str | None, ...]]:
    """An array of calls, and the ids by which they are answered (None where one has none)."""
    if not isinstance(value, list):
        faults.append(Fault(field, "must be an array of calls"))
        return (), ()
    calls: list[ToolCall] = []
    ids: list[str | None] = []
    for position, held in enumerate(value):
        at = f"{field}[{position}]"
        if isinstance(held, dict) and "function" in held:
            found = object_faults(held, at, ("function",), optional=("id", "type", "index"))
            if held.get("type") not in (None, "function"):
                found.append(Fault(f"{at}.type", "must be `function`"))
            call = call_of(held["function"], f"{at}.function", found)
            own = held.get("id")
        else:
            found = []
            call = call_of(held, at, found, optional=("id",))
            own = held.get("id") if isinstance(held, dict) else None
        if own is not None and not isinstance(own, str):
            found.append(Fault(f"{at}.id", "must be a string"))
        elif own is not None and own in ids:
            found.append(Fault(f"{at}.id", "is another call's, too"))
        faults += found
        if call is not None and not found:
            calls.append(call)
            ids.append(own)
    return tuple(calls), tuple(ids)


def call_of(value: Any, field: str, faults: list[Fault], optional: tuple[str, ...] = ()) -> ToolCall | None:
    """One `{"name": …, "arguments": …}`; the arguments are an object or its text."""
    found = object_faults(value, field, ("name", "arguments"), optional=optional)
    if found:
        faults += found
        return None
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or text_fault(name):
        found.append(Fault(f"{field}.name", "must be a string that is not empty"))
    text = ""
    try:
        if isinstance(arguments, str) and _encodable(arguments):
            raise _NoJsonError("must be a JSON object, or the text of one")
        held = parsed(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(held, dict):
            raise _NoJsonError("must be a JSON object, or the text of one")
        text = json_text(held)  # a letter written as an escape is that letter: what looks for it finds it
    except (ValueError, RecursionError):
        found.append(Fault(f"{field}.arguments", "must be a JSON object, or the text of one"))
    except _NoJsonError as error:
        found.append(Fault(f"{field}.arguments", str(error)))
    faults += found
    return None if found else ToolCall(name, text)


def _pairs(pairs: list[tuple[str, Any]]) -> JsonObject:
    value = JsonObject(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        value.repeated = tuple({k: None for k, _ in pairs if k in seen or seen.add(k)})  # type: ignore[func-returns-value]
    return value


def _constant(_: str) -> Any:
    raise NoNumberError


DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=Number, parse_float=Number, parse_constant=_constant
)
"""Decodes exactly: repeated keys are remembered, and digits stay text, so a huge number costs nothing."""
