"""JSON text with some of its places exchanged, so that it stays JSON: a call's arguments, or an answer in that form.

Knows JSON's strings and numbers; it does not know what is exchanged, or for what.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence

from cloister.datasets.personal.types import Finding

_TOKEN = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")|-?\d[\d.eE+-]*', re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)
_MEANT = {"n": "\n", '"': '"', "\\": "\\", "/": "/"}


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def legible(text: str) -> str:
    """JSON text of the same length whose escapes are white space and what they stand for, for whoever searches it."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda escape: _MEANT.get(escape[0][1], " ").rjust(len(escape[0])), text)


def exchanged(text: str, findings: Sequence[Finding], change: Callable[[str, Finding], str]) -> str:
    """JSON text in which `change` has rewritten what was found. A number that becomes none becomes a string."""
    out: list[str] = []
    last = 0
    rest = deque(findings)
    for token in _TOKEN.finditer(text):
        while rest and rest[0].end <= token.start():
            rest.popleft()
        within = [one for one in rest if one.start < token.end()]
        if within:
            rewrite = _string if token["string"] is not None else _number
            out += [text[last : token.start()], rewrite(token[0], token.start(), within, change)]
            last = token.end()
    return "".join([*out, text[last:]])


def _number(raw: str, start: int, found: Sequence[Finding], change: Callable[[str, Finding], str]) -> str:
    other = change(raw.lstrip("-"), found[0])
    return other if _NUMBER.fullmatch(other) else json.dumps(other)


def _string(raw: str, start: int, found: Sequence[Finding], change: Callable[[str, Finding], str]) -> str:
    ascii_only = "\\u" in raw
    try:
        pieces: list[str] = []
        last = 1
        for one in found:
            begin, end = max(1, one.start - start), min(len(raw) - 1, one.end - start)
            pieces += [_said(raw[last:begin]), change(_said(raw[begin:end]), one)]
            last = end
        said = "".join([*pieces, _said(raw[last:-1])])
    except ValueError:  # a place begins or ends within an escape
        said = change(json.loads(raw, strict=False), found[0])
    return json.dumps(said, ensure_ascii=ascii_only)


def _said(raw: str) -> str:
    return str(json.loads(f'"{raw}"', strict=False))
