"""Mapping files: a small YAML that says which columns of a source make a row, in the words of a `ColumnMap`.

Knows the file's form; whether the words fit is judged by whoever makes a `ColumnMap` of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloister.errors import InvalidInput
from cloister.recipes.run_file import parse_mapping

MAX_BYTES = 1 << 16
_SEVERAL = ("groups", "ignore")


def read_column_map(path: Path) -> dict[str, Any]:
    """What the file at `path` says; where several columns may stand, one by itself is a list of one.

    Raises:
        InvalidInput: it cannot be read, or is no YAML of names and columns.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"is longer than {MAX_BYTES >> 10} KiB", where=str(path))
    found = parse_mapping(data, str(path))
    return {
        name: [value] if name in _SEVERAL and isinstance(value, str) else value
        for name, value in found.items()
    }
