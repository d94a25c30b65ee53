"""Plain text into rows for domain adaptation: what stands between blank lines is a row, or each line, or the file.

Knows lines; it does not know tokens, nor how long a row may be for a model.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Literal

from cloister.datasets.blocks import Block, Blocks
from cloister.datasets.problems import Fault, ProblemLog
from cloister.datasets.rows import Row

ROWS_A_BATCH = 2048


def read_text(
    blocks: Blocks, max_row_bytes: int, problems: ProblemLog, *, form: Literal["text", "lines", "document"]
) -> Iterator[list[Row]]:
    """Yield good rows in batches, in order; report the others. A row keeps its inner line breaks.

    Args:
        form: a row is what stands between blank lines, a line, or all of the source.
    """
    by_line, whole = form == "lines", form == "document"
    rows: list[Row] = []
    held: list[bytes] = []
    size = begun = 0
    overlong = False

    def close() -> None:
        nonlocal held, size, overlong
        if overlong:
            problems.add(begun, [Fault("", f"longer than {max_row_bytes} bytes")])
        elif held:
            text, faults = _decoded(b"".join(held))
            if faults:
                problems.add(begun, faults)
            elif not text.isspace() and text:
                rows.append(Row(text=text))
        held, size, overlong = [], 0, False

    for block in blocks:
        if not isinstance(block, Block):
            if by_line or not (held or overlong):
                close()
                begun = block.line
            overlong = True
            continue
        for number, line in enumerate(io.BytesIO(block.data), block.line):
            if not line.strip() and not (whole and (held or overlong)):
                close()
                continue
            if by_line:
                close()
            if not held and not overlong:
                begun = number
            size += len(line)
            if size > max_row_bytes + 1:
                overlong, held = True, []
            if not overlong:
                held.append(line)
            if len(rows) >= ROWS_A_BATCH:
                yield rows
                rows = []
    close()
    yield rows


def _decoded(data: bytes) -> tuple[str, list[Fault]]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return "", [Fault("", f"invalid UTF-8 on line {line} of the row")]
    if "\0" in text:
        return "", [Fault("", "contains a NUL character")]
    return text.replace("\r\n", "\n").strip("\r\n"), []
