"""From a source to a dataset: formats → rows → rules → canonical form, in one pass and bounded memory.

Knows the order of the steps and when an import is refused; it does not know the formats themselves.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cloister.api import ImportConfig
from cloister.datasets.canonical import DatasetMeta, DatasetWriter, EncodedRows, Files, Task, decoded
from cloister.datasets.formats import Source
from cloister.datasets.problems import Fault, Problem, ProblemLog, Unreadable
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput


@dataclass(frozen=True)
class ImportSummary:
    """What an import made. `dropped` counts bad rows left out, `labels` distinct labels; `expansion` is how many
    bytes came out of each packed byte."""

    rows: int
    train_rows: int
    holdout_rows: int
    dropped: int
    labels: int
    task: Task
    source_format: str
    packing: str | None = None
    expansion: float = 1.0


def import_rows(
    source: BinaryIO,
    config: ImportConfig,
    writer: Files,
    *,
    report: Callable[[Problem], None],
    progress: Callable[[int, int], None],
    processes: int = 1,
    rewrite: Callable[[Row], Row] | None = None,
    more: Sequence[BinaryIO] = (),
) -> ImportSummary:
    """Read all of `source`, report every bad row, and write the good ones into the object.

    Args:
        source: bytes, read once from where it stands; a pipe will do.
        writer: the new object; this adds its files, the caller finishes it. `Nowhere` to try an import.
        report: gets each problem as it is found.
        processes: how many may read long JSON lines or a long table at a time; the result is the same.
        rewrite: gives each good row as it is to be kept.
        progress: gets bytes done and bytes in all (0 where the source cannot tell).
        more: the files that `config.more` names, read one after another behind the first.

    Raises:
        InvalidInput: the source cannot be read as rows, has none, has more than `config.max_dropped` bad
            ones, or files hold rows of different kinds; nothing is to be kept of the object then. Its
            `values` hold the counts `rows`, `bad_rows` and `problems`.
    """
    problems = ProblemLog(report)
    sources = list(zip((config.source_name, *config.more), (source, *more), strict=True))
    sizes = [_size(stream) for _, stream in sources]
    total = sum(sizes) if all(sizes) else 0
    good = before = 0
    kind: Task | None = None
    recognised: Source | None = None
    here = config
    try:
        with DatasetWriter(writer, holdout=config.holdout, seed=config.seed) as dataset:
            for (name, stream), size in zip(sources, sizes, strict=True):
                here = config.model_copy(update={"source_name": name})
                problems.source = name if more else ""
                recognised = None
                recognised = Source(stream, here, problems, processes)
                for rows in recognised.batches():
                    good += len(rows)
                    if kind != (found := _kind(rows) or kind):
                        kind = _same(kind, found, here)
                    if problems.rows > config.max_dropped:
                        pass
                    elif isinstance(rows, EncodedRows) and rewrite is None:
                        dataset.add_encoded(rows)
                    else:
                        plain = decoded(rows) if isinstance(rows, EncodedRows) else rows
                        dataset.add(plain if rewrite is None else list(map(rewrite, plain)))
                    done = before + recognised.consumed
                    progress(done, max(total, done) if total else 0)
                recognised.close()
                before += size or recognised.consumed
            _decide(good, problems, config)
            assert recognised is not None
            meta = dataset.finish(source_format=recognised.name)
    except InvalidInput as error:
        if isinstance(error, Unreadable):
            _place(error, recognised, problems, here)
        error.where = error.where or here.source_name
        error.values = {"rows": good, "bad_rows": problems.rows, "problems": problems.problems}
        raise
    finally:
        if recognised is not None:
            recognised.close()
    return _summary(meta, problems, recognised)


def _kind(rows: list[Row] | EncodedRows) -> Task | None:
    """What some rows are for; None where there are none."""
    if not len(rows):
        return None
    is_text = rows.is_text if isinstance(rows, EncodedRows) else rows[0].text is not None
    labelled = bool(rows.labels) if isinstance(rows, EncodedRows) else rows[0].label is not None
    return "text" if is_text else "classification" if labelled else "chat"


def _same(kind: Task | None, found: Task | None, config: ImportConfig) -> Task | None:
    if kind is not None:
        raise InvalidInput(
            f"its rows are for {found}, those before it for {kind}",
            where=config.source_name,
            remedy="Import files of one kind together.",
        )
    return found


def _place(error: Unreadable, source: Source | None, problems: ProblemLog, config: ImportConfig) -> None:
    """Report where a source breaks off as a problem, and say so in the error."""
    line = error.line or (source.line if source else 1)
    problems.add(line, [Fault("", error.message)], error.place)
    error.where = f"{config.source_name}:{error.place or line}"


def _decide(good: int, problems: ProblemLog, config: ImportConfig) -> None:
    if problems.rows > config.max_dropped:
        allowed = f", more than the {config.max_dropped} that may be dropped" if config.max_dropped else ""
        raise InvalidInput(
            f"{problems.rows} of {good + problems.rows} rows are bad{allowed}; nothing was imported",
            where=config.source_name,
            remedy=" ".join(
                ["Mend them, or say how many may be left out with --max-dropped.", *problems.hints]
            ),
        )
    if good == 0:
        raise InvalidInput("the file has no rows", where=config.source_name)


def _summary(meta: DatasetMeta, problems: ProblemLog, source: Source) -> ImportSummary:
    return ImportSummary(
        rows=meta.rows,
        train_rows=meta.train_rows,
        holdout_rows=meta.holdout_rows,
        dropped=problems.rows,
        labels=len(meta.labels),
        task=meta.task,
        source_format=meta.source_format,
        packing=source.packing,
        expansion=round(source.expansion, 1),
    )


def _size(source: BinaryIO) -> int:
    """Bytes of a regular file, else 0."""
    try:
        status = os.fstat(source.fileno())
    except (OSError, AttributeError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
