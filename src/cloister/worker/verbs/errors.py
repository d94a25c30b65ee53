"""The verb `errors`: the rows that an evaluation's tuned model answered worst, from the sealed report to a descriptor.

With them go the names of groups and labels, which the numbers outside go without.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from cloister.api import ErrorsConfig, JobDocument
from cloister.errors import InvalidInput
from cloister.evaluation.report import decode_samples
from cloister.worker.verbs import opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Write one JSON document to `descriptors["output"]`; returns how many rows and bytes."""
    config = ErrorsConfig.model_validate(job.config)
    if "output" not in job.descriptors:
        raise InvalidInput("showing answers needs somewhere to write them", where=job.job_id)
    with opening.open_object(job, "evaluation") as reader:
        samples = decode_samples(reader.read("samples.bin"))
        report = msgspec.json.decode(reader.read("report.json"))
    emit.progress("errors", 0, 1)
    worst = sorted(samples, key=lambda sample: sample.badness)[: config.worst]
    document = msgspec.json.encode(
        {"worst": worst, "groups": report.get("groups", []), "labels": report.get("labels", [])}
    )
    try:
        with os.fdopen(job.descriptors["output"], "wb") as output:
            output.write(document)
    except BrokenPipeError:
        raise InvalidInput("whoever asked has gone", where=job.job_id) from None
    return {"rows": len(worst), "bytes": len(document)}
