"""Which format a source has, told by its first bytes, and the reader that goes with it.

Knows signatures; it does not know what becomes of the rows. A new format is one more signature here and one
module that yields lists of rows.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from cloister.api import ImportConfig, SourceFormat
from cloister.datasets.apart import ReadApart
from cloister.datasets.arrays import Array
from cloister.datasets.blocks import Block, Blocks, Overlong
from cloister.datasets.canonical import EncodedRows
from cloister.datasets.compression import PACKINGS, Unpacked
from cloister.datasets.jsonl import overlong, parse_object, quick_rows, read_block, read_jsonl, rows_of
from cloister.datasets.plaintext import read_text
from cloister.datasets.problems import ProblemLog
from cloister.datasets.recoding import Recoded, marked
from cloister.datasets.recognise import MAP_FIELDS, checked_columns, shape_of, unknown_shape
from cloister.datasets.rows import Row
from cloister.datasets.shapes import Shape
from cloister.datasets.side_by_side import LEAST, Exactly, ReadBlock, SideBySide
from cloister.datasets.tables import SEPARATOR, Table, split_header
from cloister.errors import InvalidInput

HEAD_BYTES = 1 << 16
PARQUET = b"PAR1"

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"BZh", "bzip2 data", "Unpack it first (bunzip2)."),
    (b"\xfd7zXZ", "xz data", "Unpack it first (unxz)."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it first."),
    (b"PK\x03\x04", "a zip or spreadsheet file", "Unpack it, or save the sheet as CSV."),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet or document", "Save it as CSV."),
    (b"ARROW1", "an Arrow file", "Export it as Parquet, JSON lines or CSV."),
    (b"\xff\xff\xff\xff", "an Arrow stream", "Export it as Parquet, JSON lines or CSV."),
    (b"PARE", "an encrypted Parquet file", "Decrypt it first."),
    (b"SQLite format 3\0", "a database", "Export the table as CSV."),
    (b"%PDF", "a PDF document", "Save its text as UTF-8."),
    (b"\x7fELF", "a program", "Name a file of rows."),
    (b"\x80\x02", "a Python pickle", "Pickles are never opened; export it as JSON lines."),
    (b"\x80\x03", "a Python pickle", "Pickles are never opened; export it as JSON lines."),
    (b"\x80\x04", "a Python pickle", "Pickles are never opened; export it as JSON lines."),
    (b"\x80\x05", "a Python pickle", "Pickles are never opened; export it as JSON lines."),
    (codecs.BOM_UTF32_LE, "UTF-32 text", "Save it as UTF-8 (iconv -f UTF-32 -t UTF-8)."),
    (codecs.BOM_UTF32_BE, "UTF-32 text", "Save it as UTF-8 (iconv -f UTF-32 -t UTF-8)."),
)
_TAR_AT = 257
_MARKUP = (b"<?xml", b"<!doctype", b"<html")
_TABLE_LINES = 5
_NAME = re.compile(r'"?[^\W\d][\w.-]{0,39}"?')
"""A column's name: a word, and no space beside the delimiter, as prose would have one."""


class Source:
    """A recognised source: its format by name, and its rows once.

    Args:
        stream: bytes from where they stand; Parquet needs a regular file, anything else may be a pipe.
        processes: how many may read long JSON lines or a long table at a time.

    Raises:
        InvalidInput: it is empty, or in no format that is imported.
    """

    def __init__(
        self, stream: BinaryIO, config: ImportConfig, problems: ProblemLog, processes: int = 1
    ) -> None:
        self._raw = stream
        self._config = config
        self._problems = problems
        self._columns = checked_columns(config.columns)
        self.packing: str | None = None
        self._unpacked: Unpacked | None = None
        blocks = Blocks(stream, config.max_row_bytes)
        if packing := _packing(blocks.peek(4)):
            self.packing = packing
            self._unpacked = Unpacked(_Read(blocks), packing)
            blocks = Blocks(self._unpacked, config.max_row_bytes)
        self._recoded: Recoded | None = None
        encoding = config.encoding if config.encoding != "auto" else marked(blocks.peek(4))
        if encoding is not None and encoding != "utf-8" and blocks.peek(4) != PARQUET:
            self._recoded = Recoded(_Read(blocks), encoding)
            blocks = Blocks(self._recoded, config.max_row_bytes)
        self._blocks = blocks
        self._parquet: ReadApart | None = None
        self._beside: SideBySide | None = None
        self._processes = processes
        self._array: Array | None = None
        self._shape: Shape | None = None
        head = blocks.peek(HEAD_BYTES)
        if b"\n" not in head:
            head = blocks.peek(config.max_row_bytes)
        if head.startswith(codecs.BOM_UTF8):
            blocks.skip(len(codecs.BOM_UTF8))
            head = head[len(codecs.BOM_UTF8) :]
        _refuse_foreign(head, config.source_name, self.packing)
        self._rows = self._recognise(head)

    @property
    def consumed(self) -> int:
        """Bytes of the source read so far."""
        if self._parquet is not None:
            return self._parquet.done
        if self._unpacked is not None:
            return self._unpacked.expansion.packed
        if self._recoded is not None:
            return self._recoded.taken
        return self._array.consumed if self._array is not None else self._blocks.consumed

    @property
    def line(self) -> int:
        """The line on which what is read now begins."""
        return self._blocks.line

    @property
    def expansion(self) -> float:
        """Bytes that came out of each packed byte; 1 where nothing is packed."""
        return self._unpacked.expansion.ratio if self._unpacked is not None else 1.0

    def close(self) -> None:
        """End what still reads."""
        if self._parquet is not None:
            self._parquet.close()
        if self._beside is not None:
            self._beside.close()

    def batches(self) -> Iterator[list[Row] | EncodedRows]:
        """Good rows in order, some at a time (perhaps none); bad ones go to the problem log."""
        return self._rows

    def _recognise(self, head: bytes) -> Iterator[list[Row] | EncodedRows]:
        config = self._config
        kind: SourceFormat = config.format if config.format != "auto" else self._kind(head)
        if (kind == "parquet") != head.startswith(PARQUET):
            told = "this is" if kind != "parquet" else "this is not"
            raise InvalidInput(
                f"{told} a Parquet file", where=config.source_name, remedy="Leave --format out."
            )
        if kind == "parquet":
            from cloister.datasets.parquet import read_parquet

            if self._unpacked is not None:
                raise InvalidInput(
                    "this is a Parquet file inside packed data, where it cannot be read from its end",
                    where=config.source_name,
                    remedy="Unpack it first; Parquet packs its pages by itself.",
                )
            self.name = "parquet"
            self._parquet = read_parquet(self._raw, config, self._columns)
            return self._parquet.rows(self._problems)
        limit = config.max_row_bytes
        if kind == "text" or kind == "lines" or kind == "document":
            if self._columns is not None or config.system_prompt:
                raise InvalidInput(
                    "plain text has neither columns nor a system message",
                    where=config.source_name,
                    remedy="Leave out --text, --input, --group and --system-file.",
                )
            self.name = "text"
            return read_text(self._blocks, limit, self._problems, form=kind)
        if kind == "csv":
            if self._columns is not None and self._columns.messages:
                raise InvalidInput(
                    "a table has no column of turns",
                    where=config.source_name,
                    remedy="Export it as JSON lines, or map --input and --output.",
                )
            several = self._are_several()
            table = Table(
                self._blocks,
                self._columns,
                system=config.system_prompt,
                max_row_bytes=limit,
                problems=self._problems,
                source_name=config.source_name,
            )
            self.name = "csv"
            if not several:
                return table.rows()
            return self._beside_each_other(lambda block, _: table.read(block), table.pieces(), table.exactly)
        if kind == "json":
            self._array = Array(self._blocks.source, self._blocks.take(), limit)
            self.name, rows = _array_rows(self._array, config, self._problems)
            return rows
        self._shape = _shape_of_lines(head, config)
        self.name = self._shape.name
        if not self._are_several():
            return read_jsonl(self._blocks, self._shape, limit, self._problems)

        def tell(block: Block | Overlong, _: object) -> Iterator[list[Row]]:
            self._problems.add(block.line, [overlong(limit)])
            return iter(())

        return self._beside_each_other(partial(read_block, shape=self._shape), iter(self._blocks), tell)

    def _are_several(self) -> bool:
        """Whether several processes are to read, and there is enough for them; ask before reading."""
        return self._processes > 1 and self._blocks.has(LEAST)

    def _beside_each_other(
        self, read: ReadBlock, blocks: Iterator[Block | Overlong], exactly: Exactly
    ) -> Iterator[list[Row] | EncodedRows]:
        seed = self._config.seed if self._config.holdout else None
        self._beside = SideBySide(read, self._processes, seed)
        return self._beside.rows(blocks, exactly, self._problems)

    def _kind(self, head: bytes) -> SourceFormat:
        start = head.lstrip()[:1]
        if head.startswith(PARQUET):
            return "parquet"
        if start == b"[":
            return "json"
        if start == b"{":
            return "jsonl"
        if start == b"<" and head.lstrip()[:9].lower().startswith(_MARKUP):
            raise InvalidInput(
                "this is a document in markup, not rows",
                where=self._config.source_name,
                remedy="Export its rows as CSV or JSON lines. If it is to be learnt as it is: --format text.",
            )
        return "csv" if self._columns is not None or looks_like_table(head) else "text"


class _Read:
    """The start that was peeked at, then the rest, as a stream."""

    def __init__(self, blocks: Blocks) -> None:
        self._ahead = blocks.take()
        self._source = blocks.source

    def read(self, size: int, /) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._source.read(size)


def _packing(head: bytes) -> str | None:
    return next((name for signature, name in PACKINGS.items() if head.startswith(signature)), None)


def _refuse_foreign(head: bytes, name: str, packing: str | None) -> None:
    inside = f", inside {packing} data" if packing else ""
    if not head.strip():
        raise InvalidInput(f"the file is empty{inside}", where=name)
    if packing and (again := _packing(head)):
        raise InvalidInput(
            f"this is {again} data inside {packing} data: one level is unpacked, no more",
            where=name,
            remedy="Unpack it first.",
        )
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        raise InvalidInput(f"this is a tar archive{inside}", where=name, remedy="Unpack it first.")
    for signature, what, remedy in _SIGNATURES:
        if head.startswith(signature):
            raise InvalidInput(f"this is {what}{inside}, not rows", where=name, remedy=remedy)


def looks_like_table(head: bytes) -> bool:
    """Whether what is neither JSON nor Parquet is a table: its header is of a known format or made of single words,
    or the first lines have the same number of delimiters, two fields or more. In doubt it is a table, and then refused
    by name."""
    from cloister.datasets.columns import recognised

    lines = [line for line in io.StringIO(head.decode(errors="replace"), newline=None) if line.strip()]
    if lines and (SEPARATOR.fullmatch(lines[0]) or lines[0].lstrip().startswith("|")):
        return True
    if not lines:
        return False
    lines = lines[: _TABLE_LINES + 1]
    if len(lines) > 1 and not lines[-1].endswith("\n"):
        lines.pop()
    for delimiter, names in split_header(lines[0]):
        if recognised(names, None, None) is not None:
            return True
        if len(names) > 1 and all(_NAME.fullmatch(cell) for cell in lines[0].strip().split(delimiter)):
            return True
        counts = {line.count(delimiter) for line in lines}
        if len(counts) == 1 and counts.pop() > 0:
            return True
    return False


def _shape_of_lines(head: bytes, config: ImportConfig) -> Shape:
    """The shape of the first row that has a known one; every other row is held to it."""
    strange: tuple[int, dict[str, object]] | None = None
    for number, line in enumerate(head.split(b"\n"), 1):
        if number == 1 and line.strip() == b"{":
            raise InvalidInput(
                "this looks like one JSON object over several lines, not JSON lines",
                where=f"{config.source_name}:1",
                remedy="Write one object a line (jq -c .), or an array of them.",
            )
        value, faults = parse_object(line) if line.strip() else (None, [])
        if faults or not isinstance(value, dict):
            continue
        shape = shape_of(value, config.columns, config.system_prompt)
        if shape is not None:
            return shape
        strange = strange or (number, value)
    return _no_shape(strange, config)


def _no_shape(strange: tuple[int, dict[str, object]] | None, config: ImportConfig) -> Shape:
    if strange and strange[1]:
        raise InvalidInput(
            unknown_shape(strange[1]), where=f"{config.source_name}:{strange[0]}", remedy=MAP_FIELDS
        )
    shape = shape_of({"messages": []}, config.columns, config.system_prompt)
    assert shape is not None
    return shape


def _array_rows(array: Array, config: ImportConfig, problems: ProblemLog) -> tuple[str, Iterator[list[Row]]]:
    """The name of the shape of an array's elements, and their rows."""
    parts = iter(array)
    first = next(parts, None)
    shape = None
    strange: tuple[int, dict[str, object]] | None = None
    for position, element in enumerate(first.values if first else ()):
        value, faults = parse_object(element)
        if faults or not isinstance(value, dict):
            continue
        shape = shape_of(value, config.columns, config.system_prompt)
        if shape is not None:
            break
        strange = strange or (first.line_of(position) if first else 1, value)
    held = shape or _no_shape(strange, config)

    def rows() -> Iterator[list[Row]]:
        part = first
        while part is not None:
            if not part.guessed:
                yield rows_of(part.data, part.values, held, problems, part.line_of)
            elif (found := quick_rows(part.data, part.values, held)) is not None:
                yield found
            else:
                array.was_wrong()
            part = next(parts, None)

    return held.name, rows()
