"""The verb `derive`: datasets in, one made of them out.

What rows are chosen by is content, and so are corrections: they are in this job's memory, and in nothing it says.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cloister.api import DeriveConfig, JobDocument
from cloister.datasets.corrections import read_corrections
from cloister.datasets.derive import derive
from cloister.errors import Interrupted, InvalidInput
from cloister.worker.verbs import exchanging, opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Derive; returns counts, and nothing of what rows were chosen by.

    Raises:
        InvalidInput: nothing is left, or what was asked for does not fit the rows.
        Interrupted: the job was asked to stop.
    """
    settings = dict(job.config)
    secret = settings.pop("secret", None)
    config = DeriveConfig.model_validate(settings)

    def progress(done: int, total: int) -> None:
        if emit.should_stop():
            raise Interrupted("it was stopped; nothing was made", where=job.job_id)
        emit.progress("derive", done, total)

    corrections = None
    if config.corrections:
        if "corrections" not in job.descriptors:
            raise InvalidInput("no file of corrections came", where=job.job_id)
        with os.fdopen(job.descriptors["corrections"], "rb") as file:
            corrections = read_corrections(file)
    rewriter = None
    if config.personal is not None:
        rewriter = exchanging.rewriter_for(config.personal, config.types, secret, where=job.job_id)
    with ExitStack() as stack:
        names = ["dataset", *sorted(name for name in job.inputs if name != "dataset")]
        datasets = [stack.enter_context(opening.open_dataset(job, name)) for name in names]
        writer = opening.open_writer(job)
        derived = derive(
            datasets, writer, config, corrections=corrections, rewriter=rewriter, progress=progress
        )
        meta = derived.meta
        counts = {
            "rows": meta.rows,
            "train_rows": meta.train_rows,
            "holdout_rows": meta.holdout_rows,
            "labels": len(meta.labels),
            "rows_read": derived.read,
            "not_chosen": derived.not_chosen,
            "repeats": derived.repeats,
            "not_drawn": derived.not_drawn,
            "corrected": derived.corrected,
            "left_out": derived.left_out,
        }
        details: dict[str, Any] = {
            "task": meta.task,
            "source_format": meta.source_format,
            "holdout": meta.holdout,
            "seed": meta.seed,
        }
        if rewriter is not None and config.personal is not None:
            counts["rows_rewritten"] = rewriter.rows
            details |= {"personal": rewriter.counts(), "personal_became": exchanging.BECAME[config.personal]}
        opening.finish(writer, job, counts=counts, details=details)
    return {**counts, **details}
