"""Batches of Arrow into rows, column by column, where nothing is doubtful in any of them.

Knows columns of text, and lists of turns; what it cannot vouch for it leaves to who reads row by row. It does not know
files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from cloister.datasets.columns import Columns
from cloister.datasets.dialogues import ConversationShape
from cloister.datasets.rows import Row
from cloister.datasets.shapes import Shape

_NOTHING = 8
"""What a null counts for."""


class Batch(NamedTuple):
    """The rows of a batch, and about how many bytes of text it held."""

    rows: list[Row]
    size: int


def rows_at_once(batch: Any, form: Columns | Shape | None, max_row_bytes: int) -> Batch | None:
    """A record batch as rows; None where one may be too long or break a rule, or its columns are of another kind."""
    import pyarrow as pa

    try:
        batch.validate(full=True)  # as Arrow advises for data from strangers
        if isinstance(form, Columns):
            return _flat(batch, form, max_row_bytes)
        if isinstance(form, ConversationShape):
            return _turns(batch, form, max_row_bytes)
    except (UnicodeDecodeError, pa.ArrowInvalid):
        pass
    return None


def _flat(batch: Any, plan: Columns, max_row_bytes: int) -> Batch | None:
    columns = {str(name): _texts(batch.column(name)) for name in batch.schema.names}
    held = [column for column in columns.values() if column is not None]
    if len(held) < len(columns) or _hold_nul(held):
        return None
    names = sum(map(len, columns))
    if names + sum(map(_longest, held)) > max_row_bytes:
        return None
    nothing: list[str | None] = [None] * batch.num_rows
    rows = plan.rows([columns.get(name) or nothing for name in plan.names])
    return None if rows is None else Batch(rows, names * batch.num_rows + sum(map(_total, held)))


def _turns(batch: Any, shape: ConversationShape, max_row_bytes: int) -> Batch | None:
    import pyarrow as pa

    spelling = shape.spelling
    beside = {str(name): batch.column(name) for name in batch.schema.names}
    listed = beside.pop(spelling.turns)
    groups = [_texts(beside.pop(name)) for name in shape.groups]
    if not (pa.types.is_list(listed.type) or pa.types.is_large_list(listed.type)) or listed.null_count:
        return None
    turns = listed.flatten()
    if not pa.types.is_struct(turns.type) or turns.null_count:
        return None
    fields = {str(field.name): column for field, column in zip(turns.type, turns.flatten(), strict=True)}
    if len(fields) < turns.type.num_fields or not {spelling.role, spelling.content} <= set(fields):
        return None
    roles, contents = _texts(fields.pop(spelling.role)), _texts(fields.pop(spelling.content))
    if any(column.null_count < len(column) for column in (*beside.values(), *fields.values())):
        return None
    if roles is None or contents is None or None in roles or None in contents:
        return None
    held: list[list[str]] = [[text or "" for text in column] for column in groups if column is not None]
    if len(held) < len(groups) or _hold_nul([contents, *held]):
        return None
    lengths: list[int] = listed.value_lengths().to_pylist()
    names = len(spelling.role) + len(spelling.content) + 1 + sum(len(name) + _NOTHING for name in fields)
    around = sum(len(name) + _NOTHING for name in batch.schema.names)
    longest = max(lengths, default=0) * (names + _longest(roles) + _longest(contents))
    if around + longest + sum(map(_longest, held)) > max_row_bytes:
        return None
    rows = shape.rows(cast("list[str]", roles), cast("list[str]", contents), lengths, (), held)
    size = around * batch.num_rows + names * len(roles) + _total(roles) + _total(contents)
    return None if rows is None else Batch(rows, size + sum(map(_total, held)))


def _texts(column: Any) -> list[str | None] | None:
    """A column's texts; None where it is of another type."""
    import pyarrow as pa

    kind = column.type
    return column.to_pylist() if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _hold_nul(columns: Iterable[Sequence[str | None]]) -> bool:
    return any("\0" in "".join(filter(None, column)) for column in columns)


def _longest(column: Iterable[str | None]) -> int:
    return max([_NOTHING if text is None else len(text) for text in column], default=0)


def _total(column: Iterable[str | None]) -> int:
    return sum([_NOTHING if text is None else len(text) for text in column])
