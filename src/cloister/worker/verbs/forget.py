"""The verb `forget`: a dataset and some identifiers in, its next version out, without the rows that mention them.

The identifiers are content: they are in this job's memory and in nothing that it writes or says.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cloister.api import ForgetConfig, JobDocument
from cloister.datasets.forgetting import Mentions, forget_rows
from cloister.datasets.reader import DatasetReader
from cloister.errors import Interrupted
from cloister.worker.verbs import opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Derive the next version; returns counts, and nothing of whom they are about.

    Raises:
        NotFound: no row mentions anybody; InvalidInput: every row does, or an identifier is too short.
        Interrupted: the job was asked to stop.
    """
    config = ForgetConfig(
        identifiers=job.config["identifiers"], whole_words=bool(job.config.get("whole_words"))
    )

    def progress(done: int, total: int) -> None:
        if emit.should_stop():
            raise Interrupted("it was stopped; the dataset is as it was", where=job.job_id)
        emit.progress("forget", done, total)

    with ExitStack() as stack:
        dataset: DatasetReader = stack.enter_context(opening.open_dataset(job, "dataset"))
        writer = opening.open_writer(job)
        mentions = Mentions(config.identifiers, whole_words=config.whole_words)
        forgotten = forget_rows(dataset, writer, mentions, progress=progress)
        meta = forgotten.meta
        counts = {
            "rows": meta.rows,
            "train_rows": meta.train_rows,
            "holdout_rows": meta.holdout_rows,
            "labels": len(meta.labels),
            "rows_forgotten": forgotten.rows,
            "train_rows_forgotten": forgotten.train_rows,
            "holdout_rows_forgotten": forgotten.holdout_rows,
        }
        details = {
            "task": meta.task,
            "source_format": meta.source_format,
            "holdout": meta.holdout,
            "seed": meta.seed,
            "identifiers": len(config.identifiers),
            "identifiers_found": forgotten.identifiers_found,
        }
        opening.finish(writer, job, counts=counts, details=details)
    return {**counts, **details}
