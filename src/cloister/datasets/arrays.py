"""JSON arrays into their elements, streamed: memory is one read, or the longest element allowed.

Programs write every border between two elements alike, so a read is cut wherever such a border seems to be. Who decodes
the elements knows whether that was right: where each is one whole object, it was, since no object is the start of
another. Elsewhere brackets and quotes are followed. Knows where an element begins and ends, and on which line; it does
not know what an element means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cloister.datasets.compression import Readable
from cloister.datasets.problems import Unreadable

READ_SIZE = 1 << 19
_DEPTH = 8
"""Elements nested no deeper are matched by one expression; deeper ones are followed bracket by bracket."""

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _nested(depth: int) -> bytes:
    inner = rb'[^{}\[\]"]++|' + _STRING
    if depth:
        inner += rb"|" + _nested(depth - 1)
    return rb"[{\[](?:" + inner + rb")*+[}\]]"


_ELEMENT = re.compile(_nested(_DEPTH) + rb"|" + _STRING + rb"|[^\s,{}\[\]\"]++(?=[\s,\]])", re.DOTALL)
_TOKEN = re.compile(_STRING + rb"|[{}\[\]]|\"", re.DOTALL)
_BLANK = re.compile(rb"[ \t\r\n]*+")


_OBJECT = re.compile(rb"[ \t\r\n]*+(,?+)[ \t\r\n]*+(?=\{)")
_FIRST_NAME = re.compile(rb'\{[ \t\r\n]*+"[^"\\]{0,64}+"')


class Elements(NamedTuple):
    """Elements that lie in `data`, each beginning at its offset in `starts`; `line` is that of `data`. Where they are
    `guessed` there are no `starts`, and nothing else than these elements holds quotes in `data`."""

    line: int
    data: bytes
    values: list[bytes]
    starts: list[int]
    guessed: bool = False

    def line_of(self, position: int) -> int:
        """The line on which an element begins."""
        return self.line + self.data.count(b"\n", 0, self.starts[position])


class Array:
    """Iterates once over the elements of a source that holds one JSON array.

    Args:
        ahead: bytes that were read already.
        max_element: the most bytes that an element may have.

    Raises:
        Unreadable: brackets, commas or quotes do not fit, or an element is too long: what follows cannot be
            told apart any more.
    """

    def __init__(self, source: Readable, ahead: bytes, max_element: int) -> None:
        self._source = source
        self._data = ahead
        self._max = max_element
        self._line = 1
        self._border: tuple[bytes, bytes, bytes] | None = None
        self._was_wrong = False
        self.consumed = len(ahead)

    def was_wrong(self) -> None:
        """The guessed elements that came last are none: they come again, exactly."""
        self._was_wrong = True

    def __iter__(self) -> Iterator[Elements]:
        ended = self._until_bracket()
        first, comma = True, True
        while True:
            values: list[bytes] = []
            starts: list[int] = []
            at = 0
            data = self._data
            closed = False
            guessed, end = self._guess(data, comma)
            if guessed is not None:
                yield guessed
                if not self._was_wrong:
                    self._drop(end)
                    comma, first = False, False
                    ended = self._more(0)
                    continue
                self._was_wrong = False
            while not closed:
                at = _end(_BLANK, data, at)
                mark = data[at : at + 1]
                if not mark:
                    break
                if mark == b",":
                    if comma:
                        self._fail("a comma with no element before it", at)
                    comma = True
                    at += 1
                    continue
                if mark == b"]":
                    if comma and not first:
                        self._fail("a comma with no element after it", at)
                    closed = True
                    continue
                if not comma:
                    self._fail("a comma is missing between two elements", at)
                end = self._element(data, at, ended)
                if end < 0:
                    break
                values.append(data[at:end])
                starts.append(at)
                at, comma, first = end, False, False
            if values:
                self._learn(data, values, starts)
                yield Elements(self._line, data[:at], values, starts)
            if closed:
                self._only_blank(at + 1)
                return
            self._drop(at)
            if ended:
                if not self._data:
                    self._fail("the array is never closed", 0)
                self._fail("an element is never closed", 0)
            if len(self._data) > self._max:
                self._fail(
                    f"an element is longer than {self._max} bytes (is a quote or bracket never closed?)", 0
                )
            ended = self._more(len(self._data) if not values else 0)

    def _guess(self, data: bytes, comma: bool) -> tuple[Elements | None, int]:
        """What seem to be the elements of all that was read, up to the last border; and where they end."""
        opening = _OBJECT.match(data)
        if self._border is None or opening is None or comma == bool(opening.group(1)):
            return None, 0
        closes, between, opens = self._border
        begin = opening.end()
        last = data.rfind(between, begin)
        if last < 0:
            return None, 0
        values = data[begin:last].split(between)
        values = [values[0] + closes, *(opens + value + closes for value in values[1:])]
        if max(map(len, values)) > self._max:
            return None, 0
        end = last + len(closes)
        return Elements(self._line, data[begin:end], values, [], guessed=True), end

    def _learn(self, data: bytes, values: list[bytes], starts: list[int]) -> None:
        """How two objects were told apart: the end of one, what is between them, and the start of the other."""
        if len(values) < 2 or not values[0].endswith(b"}"):
            return
        if opens := _FIRST_NAME.match(values[1]):
            closes = values[0][-2:]
            between = data[starts[0] + len(values[0]) : starts[1]]
            self._border = (closes, closes + between + opens.group(), opens.group())

    def _element(self, data: bytes, at: int, ended: bool) -> int:
        """Where the element at `at` ends, -1 where it does not end in `data`."""
        match = _ELEMENT.match(data, at)
        if match is not None:
            if match.end() - at > self._max:
                self._fail(f"an element is longer than {self._max} bytes", at)
            return match.end()
        if data[at] in b"}:":
            self._fail("not valid JSON between two elements", at)
        if data[at] not in b"{[":
            return -1
        depth = 0
        for token in _TOKEN.finditer(data, at):
            mark = token.group()
            if mark in (b"{", b"["):
                depth += 1
            elif mark in (b"}", b"]"):
                depth -= 1
                if depth == 0:
                    return token.end()
            elif mark == b'"':
                return -1
        return -1

    def _until_bracket(self) -> bool:
        while not self._data.lstrip(b" \t\r\n"):
            if self._more(0):
                self._fail("there is no array", 0)
        self._drop(self._data.index(b"[") + 1)
        return False

    def _more(self, held: int) -> bool:
        """Read on; more at a time where an element is long, so that it is not looked through often."""
        data = self._source.read(max(READ_SIZE, held))
        self.consumed += len(data)
        self._data += data
        return not data

    def _drop(self, end: int) -> None:
        self._line += self._data.count(b"\n", 0, end)
        self._data = self._data[end:]

    def _only_blank(self, at: int) -> None:
        self._drop(at)
        while True:
            if rest := self._data.lstrip(b" \t\r\n"):
                self._fail("something stands after the end of the array", len(self._data) - len(rest))
            self._drop(len(self._data))
            if self._more(0):
                return

    def _fail(self, rule: str, at: int) -> None:
        raise Unreadable(rule, line=self._line + self._data.count(b"\n", 0, at))


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    match = pattern.match(data, at)
    return match.end() if match else at
