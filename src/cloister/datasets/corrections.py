"""A file of corrections: what some rows are to say instead, by their number. Parsed at the border, never shown.

JSON lines: `{"row": 7, "label": …}`, `{"row": 7, "answer": …}`, `{"row": 7, "messages": […]}` or
`{"row": 7, "leave_out": true}`. Rows are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import msgspec

from cloister.datasets.rows import Message, Row
from cloister.datasets.validate import row_faults
from cloister.errors import InvalidInput

MAX_CORRECTIONS = 200_000
MAX_BYTES = 256 << 20
MAX_LINE = 4 << 20
TOLD = 20
"""So many broken lines are named, and the others counted."""


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row's; exactly one of the others beside `row`."""

    row: int
    label: str | None = None
    answer: str | None = None
    messages: tuple[Message, ...] | None = None
    leave_out: bool | None = None


_DECODER = msgspec.json.Decoder(Correction)


def read_corrections(file: BinaryIO) -> dict[int, Correction]:
    """By row number. Errors: InvalidInput, naming the lines and their rules, never what stands there."""
    found: dict[int, Correction] = {}
    broken: list[tuple[int, str]] = []
    size = 0
    for number, line in enumerate(_lines(file), 1):
        size += len(line)
        if not line.strip():
            continue
        if len(found) + len(broken) == MAX_CORRECTIONS or size > MAX_BYTES:
            rule = f"more than {MAX_CORRECTIONS} corrections, or than {MAX_BYTES >> 20} MiB"
            raise _refused([(number, rule)])
        one = _read(line)
        if isinstance(one, Correction) and one.row in found:
            one = "this row has a correction already"
        if isinstance(one, Correction):
            found[one.row] = one
        else:
            broken.append((number, one))
    if broken:
        raise _refused(broken)
    if not found:
        raise InvalidInput("the file has no correction", where="corrections")
    return found


def _read(line: bytes) -> Correction | str:
    """The correction, or the rule that the line breaks."""
    try:
        one = _DECODER.decode(line)
    except msgspec.MsgspecError:
        return "not a correction in JSON, or with a field that there is not"
    if (
        one.row < 0
        or sum(part is not None for part in (one.label, one.answer, one.messages, one.leave_out)) != 1
    ):
        return "a row, and one of label, answer, messages, leave_out"
    if one.label == "" or one.answer == "" or one.leave_out is False:
        return "is empty"
    if one.messages is not None and (not one.messages or one.messages[-1].role != "assistant"):
        return "messages: the last turn is the assistant's"
    return one


def corrected(row: Row, correction: Correction) -> Row:
    """The row as it is to be. Errors: InvalidInput where it has no place for that, or breaks a rule of rows then."""
    made = _corrected(row, correction)
    if faults := row_faults(made):
        raise InvalidInput(
            f"{faults[0].field}: {faults[0].rule}",
            where=f"corrections: row {correction.row}",
            remedy="A corrected row obeys the rules of an import; nothing was made.",
        )
    return made


def _corrected(row: Row, correction: Correction) -> Row:
    if correction.messages is not None:
        label = correction.messages[-1].content if row.label is not None else None
        return msgspec.structs.replace(row, messages=correction.messages, text=None, label=label)
    if correction.label is not None:
        if row.label is None:
            raise InvalidInput(
                "this row has no label",
                where=f"corrections: row {correction.row}",
                remedy="Give an `answer`.",
            )
        last = Message("assistant", correction.label)
        return msgspec.structs.replace(row, messages=(*row.messages[:-1], last), label=correction.label)
    if row.label is not None or not row.messages:
        raise InvalidInput(
            "this row's answer is its label, or it has none",
            where=f"corrections: row {correction.row}",
            remedy="Give a `label`, or `messages`.",
        )
    answer = msgspec.structs.replace(row.messages[-1], content=correction.answer)
    return msgspec.structs.replace(row, messages=(*row.messages[:-1], answer))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _refused([(number, f"longer than {MAX_LINE >> 20} MiB")])
        yield line


def _refused(broken: Sequence[tuple[int, str]]) -> InvalidInput:
    (number, rule), *more = broken
    if not more:
        return InvalidInput(rule, where=f"corrections:{number}", remedy="Mend the line; nothing was made.")
    told = "; ".join(f"line {number}: {rule}" for number, rule in broken[:TOLD])
    rest = f"; and {len(broken) - TOLD} more" if len(broken) > TOLD else ""
    return InvalidInput(
        f"{len(broken)} lines break a rule: {told}{rest}",
        where="corrections",
        remedy="Mend the lines; nothing was made.",
    )
