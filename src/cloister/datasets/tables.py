"""CSV into rows, columns mapped by name: quoted newlines, any line ending, comma, semicolon, tab or bar.

The standard library's parser does the splitting: a block at once where nothing is doubtful, and else fed line by
line, so that line numbers, bad bytes and overlong records are known exactly. Memory is a block, or the longest record.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from cloister.api import ColumnMap
from cloister.datasets.blocks import Block, Blocks, Overlong
from cloister.datasets.columns import Columns, recognised
from cloister.datasets.problems import Fault, ProblemLog
from cloister.datasets.recognise import refuse_preferences
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput

DELIMITERS = (",", ";", "\t", "|")
ROWS_A_BATCH = 2048
PAIR_NAMES = ("prompt", "completion")
SEPARATOR = re.compile(r'"?sep=.?"?\s*')
"""A first line by which some programs tell a spreadsheet the delimiter; it is no header."""


class _TooLongError(Exception):
    """The record being read has grown over its limit."""


class _Feed:
    """Lines as text for `csv.reader`, with what is wrong with the bytes of the current record."""

    def __init__(self, blocks: Iterator[Block | Overlong], max_row_bytes: int) -> None:
        self._lines = self._decoded(blocks)
        self._limit = max_row_bytes
        self._used = 0
        self._block = Block(1, b"")
        self._ends = self._next_line = 1
        self.blocks = 0
        self.begins = 1
        self.faults: list[Fault] = []

    def has_left(self, block: int) -> bool:
        """Whether what is read next lies behind this block (from 1)."""
        return self.blocks > block or (self.blocks == block and self._next_line >= self._ends)

    def rest(self) -> Block:
        """The lines of the current block that were not read."""
        data, at = self._block.data, 0
        for _ in range(self._next_line - self._block.line):
            at = data.find(b"\n", at) + 1 or len(data)
        return Block(self._next_line, data[at:])

    def begin(self) -> None:
        """The next line starts a record."""
        self.begins = self._next_line
        self._used = 0
        self.faults = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        number, text = next(self._lines)
        self._next_line = number + 1
        if text is None:
            self.begins = self.begins if self._used else number
            raise _TooLongError
        if self._used:
            self._used += len(text.encode(errors="surrogateescape"))
            if self._used > self._limit:
                raise _TooLongError
        else:
            self.begins = number
            self._used = len(text)
        return text

    def _decoded(self, blocks: Iterator[Block | Overlong]) -> Iterator[tuple[int, str | None]]:
        for block in blocks:
            number = block.line
            self.blocks += 1
            if isinstance(block, Overlong):
                self._block, self._ends = Block(number + 1, b""), number + 1
                yield number, None
                continue
            self._block = block
            self._ends = number + block.data.count(b"\n") + (not block.data.endswith(b"\n"))
            try:
                text = block.data.decode()
            except UnicodeDecodeError:
                text = "\0"
            if "\0" not in text:
                yield from enumerate(io.StringIO(text, newline="\n"), number)
                continue
            for line in io.BytesIO(block.data):
                yield number, self._checked(number, line)
                number += 1

    def _checked(self, number: int, line: bytes) -> str:
        """A line's text; where its bytes are bad the record is marked, and the text keeps its commas."""
        where = f"of line {number}"
        pending: list[Fault] = []
        if (place := line.find(0)) >= 0:
            pending.append(Fault("", f"NUL byte at byte {place + 1} {where}"))
        try:
            line.decode()
        except UnicodeDecodeError as error:
            pending.append(Fault("", f"invalid UTF-8 at byte {error.start + 1} {where}"))
        self.faults += pending
        return line.decode(errors="replace").replace("\0", "?")


@contextmanager
def _field_limit(size: int) -> Iterator[None]:
    """The `csv` module keeps one limit for the whole process: put it back after."""
    before = csv.field_size_limit(size)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class Table:
    """A table whose header was read: its records once, piece by piece, as rows.

    Raises:
        InvalidInput: the header lacks a mapped column or has it twice, or is of no known format.
    """

    def __init__(
        self,
        blocks: Blocks,
        columns: ColumnMap | None,
        *,
        system: str | None,
        max_row_bytes: int,
        problems: ProblemLog,
        source_name: str,
    ) -> None:
        self._limit = max_row_bytes
        self._problems = problems
        self._blocks = iter(blocks)
        feed = _Feed(self._blocks, max_row_bytes)
        with _field_limit(max_row_bytes + 1):
            header, self._delimiter, self._plan = _header(feed, columns, system, problems, source_name)
        self._rest = feed.rest()
        self._width = len(header)
        self._places = [header.index(name) if name in header else None for name in self._plan.names]

    def rows(self) -> Iterator[list[Row]]:
        """The good rows in order, some at a time; the others are reported."""
        pieces = self.pieces()
        for piece in pieces:
            rows = self.read(piece) if isinstance(piece, Block) else None
            if rows is not None:
                yield rows
            else:
                yield from self.exactly(piece, pieces)

    def pieces(self) -> Iterator[Block | Overlong]:
        """What is behind the header, cut after lines where a record seems to end. It does where the piece is `read`,
        and where it is not `exactly` finds the place."""
        line, held, odd = self._rest.line, [self._rest.data], self._rest.data.count(b'"') & 1
        for block in self._blocks:
            data = block.data if isinstance(block, Block) else b""
            cut = _even(data, odd)
            if data and not cut and sum(map(len, held)) + len(data) <= self._limit:
                held.append(data)
                odd ^= data.count(b'"') & 1
                continue
            if not cut and any(held):
                yield Block(line, b"".join(held))
                line, held, odd = block.line, [], 0
                cut = _even(data, odd)
            if isinstance(block, Overlong):
                yield block
                line = block.line + 1
                continue
            cut = cut or len(data)
            yield Block(line, b"".join([*held, data[:cut]]))
            line, held = block.line + data.count(b"\n", 0, cut), [data[cut:]]
            odd = held[0].count(b'"') & 1
        if any(held):
            yield Block(line, b"".join(held))

    def read(self, piece: Block) -> list[Row] | None:
        """The rows of a piece that begins with a record; None where a record in it is doubtful, or where the last
        one ends."""
        if len(piece.data) > self._limit or b"\0" in piece.data:
            return None
        try:
            lines = io.StringIO(piece.data.decode(), newline="\n")
            with _field_limit(self._limit + 1):
                records = list(csv.reader(lines, delimiter=self._delimiter, strict=True))
        except (UnicodeDecodeError, csv.Error):
            return None
        if set(map(len, records)) != {self._width}:
            return None
        cells = list(zip(*records, strict=True))
        nothing = [None] * len(records)
        return self._plan.rows([nothing if place is None else cells[place] for place in self._places])

    def exactly(self, piece: Block | Overlong, following: Iterator[Block | Overlong]) -> Iterator[list[Row]]:
        """The good rows of a piece that begins with a record, and of as many that follow as it takes until one ends
        where a record does; the others are reported."""
        with _field_limit(self._limit + 1):
            while isinstance(piece, Overlong) or piece.data:
                feed = _Feed(chain([piece], following), self._limit)
                yield from self._records(feed)
                piece = feed.rest()

    def _records(self, feed: _Feed) -> Iterator[list[Row]]:
        batch: list[Row] = []
        for cells in _records(feed, self._delimiter, self._width, self._limit, self._problems):
            values = [None if place is None else cells[place] for place in self._places]
            if faults := self._plan.faults(values):
                self._problems.add(feed.begins, faults)
                continue
            batch.append(self._plan.row(values))
            if len(batch) >= ROWS_A_BATCH:
                yield batch
                batch = []
        yield batch


def _even(data: bytes, odd: int) -> int:
    """How long the longest start is that ends with a line and makes the number of quotes even, where before it was even
    or `odd`: a record ends there, unless a cell holds half of a pair."""
    odd ^= data.count(b'"') & 1
    end = len(data)
    while odd and end:
        begin = data.rfind(b"\n", 0, end - 1) + 1
        odd ^= data.count(b'"', begin, end) & 1
        end = begin
    return end


def _header(
    feed: _Feed, columns: ColumnMap | None, system: str | None, problems: ProblemLog, source_name: str
) -> tuple[list[str], str, Columns]:
    """The header's names, the delimiter that finds the wanted ones among them, and what they make."""
    where = f"{source_name}:1"
    try:
        while not (line := next(feed)).strip() or SEPARATOR.fullmatch(line):
            feed.begin()
    except StopIteration:
        raise InvalidInput("the file has no header line", where=where) from None
    except _TooLongError:
        raise InvalidInput("the header line is too long", where=where, remedy="Is this a CSV file?") from None
    where = f"{source_name}:{feed.begins}"
    if feed.faults:
        problems.add(feed.begins, feed.faults)
        raise InvalidInput(
            f"the header line has {feed.faults[0].rule}",
            where=where,
            remedy="Say what text it is, such as --encoding windows-1252 or utf-16-le, or save it as UTF-8.",
        )
    if "\r" in line.rstrip("\r\n"):
        raise InvalidInput(
            "lines end in bare carriage returns", where=where, remedy="Save the file with Unix line endings."
        )
    header: list[str] = []
    best, plan = ",", None
    for delimiter, names in split_header(line):
        if columns is None and "completion" not in names:
            refuse_preferences(names, ColumnMap())
        found = recognised(names, columns, system)
        wanted = set(found.names if found else PAIR_NAMES)
        if not header or len(set(names) & wanted) > len(
            set(header) & set(plan.names if plan else PAIR_NAMES)
        ):
            header, best, plan = names, delimiter, found
    faults: list[Fault] = []
    if plan is None:
        missing = [name for name in PAIR_NAMES if name not in header]
    else:
        known = (*plan.required, *plan.groups, *(plan.optional if plan.name == "columns" else ()))
        missing = [name for name in known if name not in header]
        faults = [Fault(name, "comes twice in the header") for name in plan.names if header.count(name) > 1]
    faults = [*(Fault(name, "no such column in the header") for name in missing), *faults]
    if faults or plan is None:
        problems.add(feed.begins, faults)
        raise InvalidInput(
            "; ".join(f"column `{fault.field}` {_told(fault.rule)}" for fault in faults),
            where=where,
            remedy=f"The header has {len(header)} columns; map them with --input and --output or --label, "
            "or with --text. If it is no table but prose: --format text.",
        )
    return header, best, plan


def split_header(line: str) -> Iterator[tuple[str, list[str]]]:
    """Each delimiter, and the names that it finds in the line. Bars around a line are those of a drawn table."""
    for delimiter in DELIMITERS[:-1] if line.lstrip().startswith("|") else DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True))
        except (csv.Error, StopIteration):
            continue
        yield delimiter, [cell.strip() for cell in cells]


def _told(rule: str) -> str:
    return rule if rule.startswith("comes") else "is not in the header"


def _records(
    feed: _Feed, delimiter: str, width: int, max_row_bytes: int, problems: ProblemLog
) -> Iterator[list[str]]:
    """Records of the header's width that begin in the feed's first block; everything else is reported."""
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while not feed.has_left(1):
        feed.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLongError:
            rule = f"longer than {max_row_bytes} bytes (is a quote never closed?)"
            problems.add(feed.begins, [*feed.faults, Fault("", rule)])
            continue
        except csv.Error as error:
            ended = "end of data" in str(error)
            rule = "a quote is opened and never closed" if ended else "broken quoting or a stray line ending"
            problems.add(feed.begins, [*feed.faults, Fault("", rule)])
            continue
        faults = feed.faults
        if not any(cells) and not faults:
            continue  # a blank line; spreadsheets write one as delimiters alone
        if len(cells) != width:
            faults = [*faults, Fault("", f"has {len(cells)} fields where the header has {width}")]
        if faults:
            problems.add(feed.begins, faults)
        else:
            yield cells
