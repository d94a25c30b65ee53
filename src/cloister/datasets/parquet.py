"""Parquet into rows, row group by row group, in a process of its own with bounded memory.

pyarrow reads from the descriptor that was handed over and never sees a path. Columns that no row needs are not
read. Nested columns (messages, tools) become plain values, nulls left out, and are held to the shapes of JSON.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from cloister.api import ColumnMap, ImportConfig
from cloister.datasets.apart import At, Encoded, ReadApart, Said
from cloister.datasets.batches import rows_at_once
from cloister.datasets.canonical import encoded
from cloister.datasets.columns import Columns, recognised
from cloister.datasets.compression import Expansion
from cloister.datasets.problems import Fault, Unreadable
from cloister.datasets.recognise import MAP_FIELDS, refuse_preferences, shape_of, unknown_shape
from cloister.datasets.rows import Row
from cloister.datasets.shapes import Shape
from cloister.datasets.split import InputHash
from cloister.datasets.validate import row_faults
from cloister.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MEMORY = 768 << 20
"""What reading may hold beyond what pyarrow itself takes: one page of each column, and one batch."""
BATCH_BYTES = 4 << 20
MAX_BATCH = 1024
MAX_COLUMNS = 10_000
_STRINGS = 64 << 20
_CONTAINERS = 1_000_000
"""Bounds on the footer: bytes of one string in it, and entries of one list."""


def read_parquet(source: BinaryIO, config: ImportConfig, columns: ColumnMap | None) -> ReadApart:
    """What reads the file; it tells of bad rows by row group and row.

    Raises:
        InvalidInput: the source is no regular file.
    """
    try:
        status = os.fstat(source.fileno())
        regular = stat.S_ISREG(status.st_mode)
        size = status.st_size
    except (OSError, AttributeError):
        regular = source.seekable()
        size = source.seek(0, os.SEEK_END) if regular else 0
    if not regular:
        raise InvalidInput(
            "Parquet is read from its end, which a pipe does not have yet",
            where=config.source_name,
            remedy="Name the file itself.",
        )
    memory = MEMORY + 8 * config.max_row_bytes
    return ReadApart(lambda: _read(source, size, config, columns), memory=memory, what="Parquet file")


def _read(source: BinaryIO, size: int, config: ImportConfig, columns: ColumnMap | None) -> Iterator[Said]:
    """In the child: what there is to say of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    yield At("footer")
    try:
        file = pq.ParquetFile(
            pa.PythonFile(source, mode="r"),
            memory_map=False,
            pre_buffer=False,
            buffer_size=1 << 16,
            thrift_string_size_limit=_STRINGS,
            thrift_container_size_limit=_CONTAINERS,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )
        names = [str(name) for name in file.schema_arrow.names]
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError, RuntimeError):
        raise Unreadable("the footer is damaged, or is none", place="footer") from None
    if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
        raise Unreadable(f"has a column twice, or more than {MAX_COLUMNS}", place="footer")
    plan, shape, wanted = _planned(file, names, config, columns)
    texts = _Texts(plan, _classes(file)) if plan is not None else None
    expansion = Expansion("the Parquet file")
    expansion.packed = size
    number = 0
    for group in range(file.metadata.num_row_groups):
        yield At(f"row group {group}")
        try:
            yield from _group(file, group, number, texts, shape, wanted, config, expansion, size)
            number += file.metadata.row_group(group).num_rows
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError, RuntimeError, OverflowError):
            raise Unreadable("its pages are damaged", place=f"row group {group}") from None


def _planned(
    file: pq.ParquetFile, names: list[str], config: ImportConfig, columns: ColumnMap | None
) -> tuple[Columns | None, Shape | None, list[str]]:
    """How rows are made: from flat texts, or from nested values; and the columns that it takes."""
    import pyarrow as pa

    schema = file.schema_arrow
    system = config.system_prompt
    nested = {name for name in names if pa.types.is_nested(schema.field(name).type)}
    given = columns or ColumnMap()
    turns = given.messages or next((n for n in ("messages", "conversations") if n in names), None)
    mapped = given.input or given.text
    groups = given.groups
    if not mapped and not given.messages:
        # Columns that no row needs are not read: where there are turns, or a completion, the two answers are such.
        answered = bool(turns) or "completion" in names
        known = [name for name in names if not answered or name not in ("chosen", "rejected")]
        judged = "label" in names and pa.types.is_boolean(schema.field("label").type)
        refuse_preferences(known, given, judged=judged)
    shape: Shape | None = None
    plan = None
    wanted: list[str] = []
    if not mapped and not turns and "history" in nested and {"instruction", "output"} <= set(names):
        core: tuple[str, ...] = ("instruction", "output")
        shape = shape_of(dict.fromkeys(core, ""), columns, system)
        wanted = [name for name in (*core, "input", "system", "history", *groups) if name in names]
        missing = [name for name in groups if name not in names]
    elif not mapped and (turns or {"prompt", "completion"} & nested):
        sample: dict[str, Any] = {name: [] for name in names if name in ("prompt", "completion")}
        if turns:
            sample = {turns: [_fields(schema.field(turns).type)] if turns in names else []}
        shape = shape_of(sample, columns, system, closed=False)
        core = (turns,) if turns else ("prompt", "completion")
        beside = ("tools", "functions", *(("system",) if turns else ()))
        wanted = [name for name in (*core, *beside, *groups) if name in names]
        missing = [name for name in (*core, *groups) if name not in names]
    else:
        plan = recognised(names, columns, system)
        if plan is None:
            raise Unreadable(f"{unknown_shape(names)}", place="footer", remedy=MAP_FIELDS)
        needed = (*plan.required, *plan.groups, *(plan.optional if plan.name == "columns" else ()))
        missing = [name for name in needed if name not in names]
        wanted = [name for name in plan.names if name in names]
    if missing:
        told = "; ".join(f"column `{name}` is not in the file" for name in missing)
        raise Unreadable(told, place="footer", remedy=f"The file has {len(names)} columns.")
    return plan, shape, wanted


def _fields(kind: Any) -> dict[str, str]:
    """The names of the fields of a turn, where a column is a list of structs."""
    inner: Any = getattr(kind, "value_type", None)
    return {str(field.name): "" for field in inner} if hasattr(inner, "get_field_index") else {}


def _classes(file: pq.ParquetFile) -> dict[str, list[str]]:
    """The names of classes by column, where Hugging Face's `datasets` wrote the file: it keeps numbers for them."""
    try:
        told = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"].items()
        return {
            str(name): one["names"]
            for name, one in features
            if isinstance(one, dict)
            and one.get("_type") == "ClassLabel"
            and isinstance(one["names"], list)
            and all(isinstance(held, str) for held in one["names"])
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _group(
    file: pq.ParquetFile,
    group: int,
    first: int,
    texts: _Texts | None,
    shape: Shape | None,
    wanted: list[str],
    config: ImportConfig,
    expansion: Expansion,
    size: int,
) -> Iterator[Said]:
    """The rows of one row group, in batches of about `BATCH_BYTES`."""
    about = file.metadata.row_group(group)
    each = max(1, about.total_byte_size // max(1, about.num_rows))
    amount = min(MAX_BATCH, max(1, BATCH_BYTES // each))
    total = max(1, file.metadata.num_rows)
    row = 0
    hashed = InputHash(config.seed) if config.holdout else None
    for batch in file.iter_batches(batch_size=amount, row_groups=[group], columns=wanted, use_threads=False):
        bad: list[tuple[int, str, list[tuple[str, str]]]] = []
        quick = rows_at_once(batch, texts.plan if texts is not None else shape, config.max_row_bytes)
        rows: list[Row] = []
        if quick is not None:
            rows = quick.rows
            expansion.unpacked += quick.size
        for values in _values(batch) if quick is None else ():
            place = f"row group {group}, row {row}"
            found, faults = _row(values, texts, shape, config, expansion)
            if faults:
                bad.append((first + row + 1, place, [tuple(fault) for fault in faults]))  # type: ignore[misc]
            elif found is not None:
                rows.append(found)
            row += 1
        row += len(rows) if quick is not None else 0
        try:
            expansion.check()
        except Unreadable as error:
            raise Unreadable(
                error.message, place=f"row group {group}, row {row}", remedy=error.remedy
            ) from None
        hashes = hashed.of(rows) if hashed else [0] * len(rows)
        yield Encoded(encoded(rows, hashes), bad, int(size * min(1.0, (first + row) / total)))


def _values(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch as plain values; None where the bytes of one are no text."""
    import pyarrow as pa

    try:
        batch.validate(full=True)  # as Arrow advises for data from strangers
        yield from batch.to_pylist()
        return
    except (UnicodeDecodeError, pa.ArrowInvalid):
        pass
    for position in range(batch.num_rows):
        try:
            one = batch.slice(position, 1)
            one.validate(full=True)
            values = one.to_pylist()[0]
        except (UnicodeDecodeError, pa.ArrowInvalid):
            values = None
        yield values


class _Texts:
    """The flat values of a row as texts, numbers of classes and groups too."""

    def __init__(self, plan: Columns, classes: Mapping[str, Sequence[str]]) -> None:
        self.plan = plan
        self._classes = classes

    def of(self, values: Mapping[str, Any], faults: list[Fault]) -> list[str | None]:
        """In the order of the plan's names; what is no text is a fault."""
        return [self._text(name, values.get(name), faults) for name in self.plan.names]

    def _text(self, name: str, value: Any, faults: list[Fault]) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and name in self._classes:
            names = self._classes[name]
            if 0 <= value < len(names):
                return names[value]
            faults.append(Fault(name, "is the number of no class that the file names"))
            return None
        if isinstance(value, int) and (name in self.plan.groups or name == self.plan.label):
            value = str(value).lower()
        elif isinstance(value, bytes):  # some write texts without saying that they are
            try:
                value = value.decode()
            except UnicodeDecodeError:
                faults.append(Fault(name, "invalid UTF-8"))
                return None
        if value is not None and not isinstance(value, str):
            faults.append(Fault(name, "must be a string"))
            return None
        return value


def _row(
    values: dict[str, Any] | None,
    texts: _Texts | None,
    shape: Shape | None,
    config: ImportConfig,
    expansion: Expansion,
) -> tuple[Row | None, list[Fault]]:
    if values is None:
        return None, [Fault("", "invalid UTF-8")]
    held = _size(values)
    expansion.unpacked += held
    if held > config.max_row_bytes:
        return None, [Fault("", f"longer than {config.max_row_bytes} bytes")]
    if shape is not None:
        return shape.exact(dict(_told(values).items()))
    assert texts is not None
    faults: list[Fault] = []
    found = texts.of(values, faults)
    faults = faults or texts.plan.faults(found)
    if faults:
        return None, faults
    row = texts.plan.row(found)
    broken = row_faults(row)
    return (None, broken) if broken else (row, [])


def _size(value: Any) -> int:
    """About how many bytes of text a value holds."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values())) + sum(map(len, value))
    if isinstance(value, list):
        return sum(map(_size, value)) + len(value)
    return 8


def _told(value: Any) -> Any:
    """Without what is null: a struct has every field in every row."""
    if isinstance(value, dict):
        return {name: _told(held) for name, held in value.items() if held is not None}
    if isinstance(value, list):
        return [_told(held) for held in value]
    return value
