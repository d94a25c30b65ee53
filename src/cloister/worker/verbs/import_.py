"""The worker's verbs `import` and `dry-run`: a source on a descriptor becomes a sealed dataset, or is only read.

Knows the job document and where problems go; it does not know formats or sealing.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cloister.api import ImportConfig, JobDocument
from cloister.datasets import ImportSummary, Nowhere, Problem, import_rows
from cloister.datasets.canonical import Files
from cloister.datasets.rows import Row
from cloister.errors import Interrupted, InvalidInput
from cloister.vault import ObjectWriter
from cloister.worker.verbs import exchanging

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter

PROGRESS_BYTES = 64 << 20
"""How often progress is told where the source cannot say how long it is."""

MAX_PROCESSES = 16

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
            with contextlib.suppress(OSError):
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
    """Import `descriptors["source"]`, then `source:1` and so on where more files are named, into `output` as the job's
    configuration says; without one, only read it.

    Returns:
        the counts of the new dataset, its task and format, and the first dropped rows' problems; of a dry run
        also whether an import would be refused, and why.

    Raises:
        InvalidInput: the source is refused; `values` hold the counts and the first problems.
        Interrupted: the job was asked to stop.
    """
    settings = dict(job.config)
    how, secret = settings.pop("personal", None), settings.pop("secret", None)
    config = ImportConfig.model_validate(settings)
    if not set(_roles(config)) <= set(job.descriptors):
        raise InvalidInput("an import needs a source, and each file that it names", where=job.job_id)
    if job.verb == "dry-run":
        return _dry_run(job, config, emit)
    output = job.output
    if output is None or output.key is None:
        raise InvalidInput("an import needs a sealed output", where=job.job_id)
    writer = ObjectWriter(
        Path(output.path),
        object_id=output.object_id,
        kind=output.kind,
        version=output.version,
        key=base64.b64decode(output.key),
    )
    personal = exchanging.rewriter_for(how, secret=secret, where=job.job_id) if how is not None else None
    summary, first = _read(job, config, writer, emit, rewrite=personal)
    if personal is not None and how == "refuse":
        exchanging.refuse_found(personal, config.source_name)
    counts, details = _counts(summary), _details(summary, config)
    if personal is not None:
        details["personal"] = exchanging.counted(personal, summary.rows)
        if how in exchanging.BECAME:
            details["personal_became"] = exchanging.BECAME[how]
    writer.finish(
        created_at=datetime.now(UTC).isoformat(),
        counts=counts,
        details=details,
    )
    return {**counts, **details, "first_problems": first}


def _dry_run(job: JobDocument, config: ImportConfig, emit: Emitter) -> dict[str, Any]:
    """Read all of the source and keep none of it."""
    try:
        summary, first = _read(job, config, Nowhere(), emit)
    except InvalidInput as error:
        told = {"refused": error.message, "where": error.where, "remedy": error.remedy}
        return {"would_import": False, "rows": 0, "bad_rows": 0, "problems": 0, **error.values, **told}
    counts = _counts(summary)
    return {
        "would_import": True,
        **counts,
        "bad_rows": summary.dropped,
        **_details(summary, config),
        "first_problems": first,
    }


def _read(
    job: JobDocument,
    config: ImportConfig,
    writer: Files,
    emit: Emitter,
    *,
    rewrite: Callable[[Row], Row] | None = None,
) -> tuple[ImportSummary, list[str]]:
    """The source, read into `writer`; and the first problems."""
    report = ProblemReport(job.descriptors.get("report"), config.source_name)
    try:
        with contextlib.ExitStack() as stack:
            source, *more = [
                stack.enter_context(os.fdopen(job.descriptors[role], "rb", buffering=0))
                for role in _roles(config)
            ]
            progress = Progress(emit, job.job_id)
            processes = min(MAX_PROCESSES, job.threads or len(os.sched_getaffinity(0)))
            summary = import_rows(
                source,
                config,
                writer,
                report=report,
                progress=progress,
                processes=1 if rewrite is not None else processes,  # what is rewritten passes through here
                rewrite=rewrite,
                more=more,
            )
            return summary, report.first
    except InvalidInput as error:
        error.values = {**error.values, "first_problems": report.first}
        raise
    finally:
        report.close()


def _roles(config: ImportConfig) -> list[str]:
    """The descriptors of the files, in order."""
    return ["source", *(f"source:{number}" for number in range(1, len(config.more) + 1))]


def _details(summary: ImportSummary, config: ImportConfig) -> dict[str, Any]:
    details: dict[str, Any] = {
        "task": summary.task,
        "source_format": summary.source_format,
        "holdout": config.holdout,
        "seed": config.seed,
    }
    if summary.packing:
        details |= {"packing": summary.packing, "expansion": summary.expansion}
    if config.columns and config.columns.groups:
        details["groups"] = list(config.columns.groups)
    return details


def _counts(summary: ImportSummary) -> dict[str, int]:
    return {
        "rows": summary.rows,
        "train_rows": summary.train_rows,
        "holdout_rows": summary.holdout_rows,
        "dropped": summary.dropped,
        "labels": summary.labels,
    }
