"""Texts that are JSON, or hold some: what they say, and the same with some of its places exchanged, still JSON.

A call's arguments are such texts, and an answer may be one; JSON within JSON is followed. Knows JSON's strings, numbers
and escapes; it does not know what is looked for or exchanged.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from cloister.datasets.personal.types import Finding

_TOKEN = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")|-?\d[\d.eE+-]*', re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL
)
_UNICODE = re.compile(r"\\+u[dD][89abAB][0-9a-fA-F]{2}\\+u[dD][c-fC-F][0-9a-fA-F]{2}|\\+u[0-9a-fA-F]{4}")
"""As they stand in a piece of JSON that prose quotes. What else follows a backslash there may be a path."""
_MEANT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_NESTED = 3
"""So deep is JSON within JSON followed."""


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class Said(NamedTuple):
    """What a text says where escapes are the characters that they stand for. `at` tells where each character, and the
    end, stands in the text itself; None where it is the same."""

    text: str
    at: Sequence[int] | None = None

    def there(self, one: Finding) -> Finding:
        """What was found in what is said, by its place in the text itself."""
        return one if self.at is None else replace(one, start=self.at[one.start], end=self.at[one.end])

    def here(self, place: int) -> int:
        """The character that stands at a place of the text itself, or is the first behind it."""
        return min(place if self.at is None else bisect_left(self.at, place), len(self.text))


def said(text: str, depth: int = _NESTED) -> Said:
    """What a text says: any escape counts where it is JSON, elsewhere one by a character's number does."""
    if "\\" not in text:
        return Said(text)
    if depth == 0 or not is_json(text):
        return _meant(text, _UNICODE)
    pieces: list[str] = []
    at: list[int] = []
    last = 0
    for token in _TOKEN.finditer(text):
        if token["string"] is None or "\\" not in token[0]:
            continue
        begin, end = token.start() + 1, token.end() - 1
        inside = _meant(text[begin:end], _ESCAPE)
        deeper = said(inside.text, depth - 1)
        places = range(len(deeper.text)) if deeper.at is None else deeper.at[:-1]
        if inside.at is not None:
            places = [inside.at[place] for place in places]
        pieces += [text[last:begin], deeper.text]
        at += range(last, begin)
        at += [begin + place for place in places]
        last = end
    pieces.append(text[last:])
    at += range(last, len(text) + 1)
    return Said("".join(pieces), at)


def _meant(text: str, escapes: re.Pattern[str]) -> Said:
    pieces: list[str] = []
    at: list[int] = []
    last = 0
    for escape in escapes.finditer(text):
        begin = escape.start()
        pieces += [text[last:begin], _character(escape[0])]
        at += range(last, begin + 1)
        last = escape.end()
    if not pieces:
        return Said(text)
    pieces.append(text[last:])
    at += range(last, len(text) + 1)
    return Said("".join(pieces), at)


def _character(escape: str) -> str:
    kind = escape.lstrip("\\")[:1] or "\\"
    if kind != "u" or len(escape) < 6:
        return _MEANT.get(kind, kind)
    units = [int(code, 16) for code in re.findall(r"u([0-9a-fA-F]{4})", escape)]
    return "".join(map(chr, units)) if len(units) == 1 else _astral(*units)


def _astral(high: int, low: int) -> str:
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def exchanged(text: str, findings: Sequence[Finding], change: Callable[[str, Finding], str]) -> str:
    """A text in which `change` has rewritten what was found, as it is said. JSON stays JSON: a number that becomes none
    becomes a string."""
    if not findings:
        return text
    if not is_json(text):
        return _plain(text, findings, change)
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


def _plain(text: str, findings: Sequence[Finding], change: Callable[[str, Finding], str]) -> str:
    out: list[str] = []
    last = 0
    for one in findings:
        out += [text[last : one.start], change(_meant(text[one.start : one.end], _UNICODE).text, one)]
        last = one.end
    return "".join([*out, text[last:]])


def _number(raw: str, start: int, found: Sequence[Finding], change: Callable[[str, Finding], str]) -> str:
    other = change(raw.lstrip("-"), found[0])
    return other if _NUMBER.fullmatch(other) else json.dumps(other)


def _string(raw: str, start: int, found: Sequence[Finding], change: Callable[[str, Finding], str]) -> str:
    inside = _meant(raw[1:-1], _ESCAPE)
    places = [
        replace(one, start=inside.here(max(0, one.start - start - 1)), end=inside.here(one.end - start - 1))
        for one in found
    ]
    return json.dumps(exchanged(inside.text, places, change), ensure_ascii="\\u" in raw)
