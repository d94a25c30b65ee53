"""The worker's verb `import`: a source on a descriptor becomes a sealed dataset.

Knows the job document and where problems go; it does not know formats or sealing.
"""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cloister.api import ImportConfig, JobDocument
from cloister.datasets import ImportSummary, Problem, import_rows
from cloister.errors import Interrupted, InvalidInput
from cloister.vault import ObjectWriter

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter

PROGRESS_BYTES = 64 << 20
"""How often progress is told where the source cannot say how long it is."""

SHOWN_PROBLEMS = 50
"""So many problems go into the job's own result; every one goes to the `report` descriptor."""


class ProblemReport:
    """Writes each problem as a line to the report descriptor, if there is one, and keeps the first."""

    def __init__(self, descriptor: int | None, source_name: str) -> None:
        self._file: BinaryIO | None = os.fdopen(descriptor, "wb") if descriptor is not None else None
        self._source_name = source_name
        self.first: list[str] = []

    def __call__(self, problem: Problem) -> None:
        if self._file is None and len(self.first) >= SHOWN_PROBLEMS:
            return
        line = problem.format(self._source_name)
        if len(self.first) < SHOWN_PROBLEMS:
            self.first.append(line)
        if self._file is not None:
            try:
                self._file.write(line.encode(errors="replace") + b"\n")
            except BrokenPipeError:
                self._drop()

    def close(self) -> None:
        """Flush and close; a reader that has gone is no reason to fail."""
        if self._file is not None:
            try:
                self._file.close()
            except BrokenPipeError:
                self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


class Progress:
    """Passes progress on, and stops the import when the job was asked to stop."""

    def __init__(self, emit: Emitter, job_id: str) -> None:
        self._emit = emit
        self._job_id = job_id
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        if self._emit.should_stop():
            raise Interrupted("the import was stopped; nothing was kept", where=self._job_id)
        if total or done - self._told >= PROGRESS_BYTES:
            self._told = done
            self._emit.progress("import", done, total or done + 1)


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Import `descriptors["source"]` into `output` as the job's configuration says.

    Returns:
        the counts of the new dataset, its task and format, and the first dropped rows' problems.

    Raises:
        InvalidInput: the source is refused; `values` hold the counts and the first problems.
        Interrupted: the job was asked to stop.
    """
    config = ImportConfig.model_validate(job.config)
    output = job.output
    if output is None or output.key is None or "source" not in job.descriptors:
        raise InvalidInput("an import needs a source and a sealed output", where=job.job_id)
    writer = ObjectWriter(
        Path(output.path),
        object_id=output.object_id,
        kind=output.kind,
        version=output.version,
        key=base64.b64decode(output.key),
    )
    report = ProblemReport(job.descriptors.get("report"), config.source_name)
    try:
        with os.fdopen(job.descriptors["source"], "rb", buffering=0) as source:
            summary = import_rows(
                source,
                config,
                writer,
                report=report,
                progress=Progress(emit, job.job_id),
            )
    except InvalidInput as error:
        error.values = {**error.values, "first_problems": report.first}
        raise
    finally:
        report.close()
    counts = _counts(summary)
    details = {
        "task": summary.task,
        "source_format": summary.source_format,
        "holdout": config.holdout,
        "seed": config.seed,
    }
    writer.finish(
        created_at=datetime.now(UTC).isoformat(),
        counts=counts,
        details=details,
    )
    return {**counts, **details, "first_problems": report.first}


def _counts(summary: ImportSummary) -> dict[str, int]:
    return {
        "rows": summary.rows,
        "train_rows": summary.train_rows,
        "holdout_rows": summary.holdout_rows,
        "dropped": summary.dropped,
        "labels": summary.labels,
    }
