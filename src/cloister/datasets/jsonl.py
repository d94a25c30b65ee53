"""JSON values into rows: a whole block at once where nothing is doubtful, else one by one, exactly.

The quick way decodes straight into typed values and then proves, by counting quotes or names in the raw bytes,
that no object had a name twice. Whatever it cannot vouch for goes the exact way, which names every broken
rule. Both ways accept the same lines and give the same rows. Serves JSON lines and JSON arrays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from operator import add
from typing import Any

import msgspec

from cloister.datasets.blocks import Block, Blocks
from cloister.datasets.problems import Fault, ProblemLog
from cloister.datasets.rows import Row
from cloister.datasets.shapes import Shape
from cloister.datasets.toolcalls import DECODER, NoNumberError

_SPACE = b" \t\r\n"
_FEW = 16
"""So many values are tried at once where a block as a whole is doubtful."""
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
"""A printable ASCII character written as an escape: it could spell a key that counting does not see."""


def read_jsonl(blocks: Blocks, shape: Shape, max_row_bytes: int, problems: ProblemLog) -> Iterator[list[Row]]:
    """Yield the good rows of each block in order; report the others."""
    for block in blocks:
        if not isinstance(block, Block):
            problems.add(block.line, [overlong(max_row_bytes)])
            yield []
            continue
        yield read_block(block, problems, shape)


def overlong(max_row_bytes: int) -> Fault:
    """What is wrong with a line over the limit."""
    return Fault("", f"longer than {max_row_bytes} bytes")


def read_block(block: Block, problems: ProblemLog, shape: Shape) -> list[Row]:
    """The good rows of whole lines; the others are reported."""
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return rows_of(block.data, lines, shape, problems, partial(add, block.line))


def rows_of(
    data: bytes, values: list[bytes], shape: Shape, problems: ProblemLog, line: Callable[[int], int]
) -> list[Row]:
    """The good rows of `values`, which all lie in `data`; `line` tells where the n-th one begins."""
    rows = quick_rows(data, values, shape)
    return list(_exact(values, shape, problems, line)) if rows is None else rows


def parse_line(line: bytes, shape: Shape) -> tuple[Row | None, list[Fault]]:
    """One line exactly: its row, or every rule that it breaks; (None, []) for a blank line."""
    if not line.strip(_SPACE):
        return None, []
    value, faults = parse_object(line)
    return (None, faults) if faults else shape.exact(value)


def parse_object(line: bytes) -> tuple[Any, list[Fault]]:
    """One JSON value with its repeated keys remembered, or the one reason why it is none."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return None, [Fault("", f"invalid UTF-8 at byte {error.start + 1} of the line")]
    if "\0" in text:
        return None, [Fault("", f"NUL byte at byte {line.index(0) + 1} of the line")]
    try:
        return DECODER.decode(text.strip(" \t\r\n")), []
    except RecursionError:
        return None, [Fault("", "nested too deeply")]
    except json.JSONDecodeError as error:
        lead = len(text) - len(text.lstrip(" \t\r\n"))
        place = len(text[: lead + error.pos].encode()) + 1
        return None, [Fault("", f"not valid JSON (at byte {place} of the line)")]
    except NoNumberError:
        return None, [Fault("", "not valid JSON: NaN and Infinity are no numbers there, null is")]
    except ValueError:
        return None, [Fault("", "not valid JSON")]


def quick_rows(data: bytes, values: list[bytes], shape: Shape) -> list[Row] | None:
    """The rows of values if nothing is doubtful in any of them. `data` is what they lie in, and all its quotes are
    theirs."""
    quick = shape.quick
    if quick is None:
        return None
    try:
        items = list(map(quick.decode, values))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    made = quick.at_once(items)
    if made is None:
        return None
    escapes = b"\\" in data
    if escapes and any("\0" in text for text in made.texts):
        return None
    if quick.keys is None:
        # A string has two quotes that no backslash comes before, and one where its text ends with a backslash.
        wanted = 2 * made.strings - sum([text[-1:] == "\\" for text in made.texts if escapes])
        found = data.count(b'"') - (data.count(b'\\"') if escapes else 0)
        return made.rows if found == wanted else None
    if escapes and _ESCAPED_ASCII.search(data):
        return None
    return made.rows if len(quick.keys.findall(data)) == made.names else None


def _exact(
    values: list[bytes], shape: Shape, problems: ProblemLog, line: Callable[[int], int]
) -> Iterator[Row]:
    for begin in range(0, len(values), _FEW):
        few = values[begin : begin + _FEW]
        rows = quick_rows(b"\n".join(few), few, shape)
        if rows is not None:
            yield from rows
            continue
        for position, value in enumerate(few, begin):
            row, faults = parse_line(value, shape)
            if faults:
                problems.add(line(position), faults)
            elif row is not None:
                yield row
