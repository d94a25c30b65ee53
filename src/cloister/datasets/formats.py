"""Which format a source has, told by its first bytes, and the reader that goes with it.

Knows signatures and shapes; it does not know what becomes of the rows. A new format is one more
signature here and one module that yields lists of rows.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from cloister.api import ColumnMap, ImportConfig
from cloister.datasets.blocks import Blocks
from cloister.datasets.jsonl import parse_object, read_jsonl
from cloister.datasets.problems import ProblemLog
from cloister.datasets.rows import Row
from cloister.datasets.shapes import ChatShape, FieldsShape, Shape
from cloister.datasets.tables import read_csv
from cloister.errors import InvalidInput

HEAD_BYTES = 1 << 16

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip data", "Unpack it first (gunzip)."),
    (b"\x28\xb5\x2f\xfd", "Zstandard data", "Unpack it first (unzstd)."),
    (b"BZh", "bzip2 data", "Unpack it first (bunzip2)."),
    (b"\xfd7zXZ", "xz data", "Unpack it first (unxz)."),
    (b"PAR1", "a Parquet file", "Export it as JSON lines or CSV."),
    (b"PK\x03\x04", "a zip or spreadsheet file", "Unpack it, or save the sheet as CSV."),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet or document", "Save it as CSV."),
    (b"ARROW1", "an Arrow file", "Export it as JSON lines or CSV."),
    (b"SQLite format 3\0", "a database", "Export the table as CSV."),
    (b"%PDF", "a PDF document", "Cloister imports JSON lines and CSV."),
    (b"\x7fELF", "a program", "Cloister imports JSON lines and CSV."),
    (b"\x80\x02", "a Python pickle", "Pickles are never opened; export it as JSON lines."),
    (b"\x80\x04", "a Python pickle", "Pickles are never opened; export it as JSON lines."),
    (b"\x80\x05", "a Python pickle", "Pickles are never opened; export it as JSON lines."),
    (codecs.BOM_UTF16_LE, "UTF-16 text", "Save it as UTF-8 (iconv -f UTF-16 -t UTF-8)."),
    (codecs.BOM_UTF16_BE, "UTF-16 text", "Save it as UTF-8 (iconv -f UTF-16 -t UTF-8)."),
)


class Source:
    """A recognised source: its format by name, and its rows once.

    Raises:
        InvalidInput: it is empty, or in no format that is imported.
    """

    def __init__(self, stream: BinaryIO, config: ImportConfig, problems: ProblemLog) -> None:
        self._blocks = Blocks(stream, config.max_row_bytes)
        self._config = config
        self._problems = problems
        head = self._blocks.peek(HEAD_BYTES)
        if b"\n" not in head:
            head = self._blocks.peek(config.max_row_bytes)
        if head.startswith(codecs.BOM_UTF8):
            self._blocks.skip(len(codecs.BOM_UTF8))
            head = head[len(codecs.BOM_UTF8) :]
        _refuse_foreign(head, config.source_name)
        columns = _checked_columns(config)
        self._shape: Shape | None = None
        if _is_json(head, config):
            self._shape = _shape_of(head, columns, config)
        self._columns = columns
        self.name = self._shape.name if self._shape else "csv"

    @property
    def consumed(self) -> int:
        """Bytes read so far."""
        return self._blocks.consumed

    def batches(self) -> Iterator[list[Row]]:
        """Good rows in order, some at a time (perhaps none); bad ones go to the problem log."""
        limit = self._config.max_row_bytes
        if self._shape:
            return read_jsonl(self._blocks, self._shape, limit, self._problems)
        return read_csv(
            self._blocks,
            self._columns,
            system=self._config.system_prompt,
            max_row_bytes=limit,
            problems=self._problems,
            source_name=self._config.source_name,
        )


def _refuse_foreign(head: bytes, name: str) -> None:
    if not head.strip():
        raise InvalidInput("the file is empty", where=name)
    for signature, what, remedy in _SIGNATURES:
        if head.startswith(signature):
            raise InvalidInput(f"this is {what}, not text", where=name, remedy=remedy)


def _checked_columns(config: ImportConfig) -> ColumnMap | None:
    columns = config.columns
    if columns is None:
        return None
    if (columns.output is None) == (columns.label is None):
        raise InvalidInput(
            "exactly one of an output column and a label column must be given",
            remedy="Use --output or --label.",
        )
    names = [columns.input, columns.output or columns.label, columns.system]
    given = [name for name in names if name is not None]
    if "" in given or len(set(given)) < len(given):
        raise InvalidInput("each column must be given by a name of its own")
    return columns


def _is_json(head: bytes, config: ImportConfig) -> bool:
    if config.format != "auto":
        return config.format == "jsonl"
    start = head.lstrip()[:1]
    if start == b"[":
        raise InvalidInput(
            "this looks like a JSON array, not JSON lines",
            where=config.source_name,
            remedy="Write one object a line (jq -c '.[]').",
        )
    return start == b"{"


def _shape_of(head: bytes, columns: ColumnMap | None, config: ImportConfig) -> Shape:
    """The shape of the first row that has a known one; every other row is held to it."""
    system = config.system_prompt
    if columns is not None:
        return FieldsShape(columns, closed=False, system=system)
    strange: tuple[int, dict[str, object]] | None = None
    for number, line in enumerate(head.split(b"\n"), 1):
        value, faults = parse_object(line) if line.strip() else (None, [])
        if faults or not isinstance(value, dict):
            continue
        labelled = "label" in value
        if "messages" in value:
            return ChatShape(labelled=labelled, system=system)
        if "prompt" in value or "completion" in value:
            pair = ColumnMap(input="prompt", output="completion")
            return FieldsShape(pair, closed=True, system=system, labelled=labelled)
        strange = strange or (number, value)
    if strange:
        raise InvalidInput(
            _unknown_shape(strange[1]),
            where=f"{config.source_name}:{strange[0]}",
            remedy="Map its fields with --input and --output or --label.",
        )
    return ChatShape(labelled=False, system=system)


def _unknown_shape(value: dict[str, object]) -> str:
    if "conversations" in value:
        return "this looks like ShareGPT `conversations`, which is not imported; write chat `messages`"
    if "instruction" in value:
        return "this looks like Alpaca `instruction`, which needs its fields mapped"
    return "rows have neither `messages` nor `prompt` and `completion`"
