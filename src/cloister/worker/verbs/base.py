"""The worker's verb `base`: a model's files on descriptors become a base model object, in the open.

Knows the job document; the checks are `cloister.models.base`'s.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.api import BaseImportConfig, JobDocument
from cloister.errors import Interrupted, InvalidInput
from cloister.models.base import import_base
from cloister.vault import ObjectWriter

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Copy `descriptors["file:<i>"]`, named by the configuration's `files[i]`, into `output`.

    Returns:
        the model's details (architecture, parameters, sizes).

    Raises:
        InvalidInput: a file is refused.
        Interrupted: the job was asked to stop.
    """
    config = BaseImportConfig.model_validate(job.config)
    output = job.output
    if output is None:
        raise InvalidInput("a base model needs an output", where=job.job_id)
    if len(set(config.files)) < len(config.files):
        raise InvalidInput("a file name comes twice", where=job.job_id)
    files: dict[str, int] = {}
    for number, name in enumerate(config.files):
        descriptor = job.descriptors.get(f"file:{number}")
        if descriptor is None:
            raise InvalidInput("the file was not passed", where=name)
        files[name] = descriptor
    writer = ObjectWriter(
        Path(output.path),
        object_id=output.object_id,
        kind=output.kind,
        version=output.version,
        key=base64.b64decode(output.key) if output.key else None,
    )

    def progress(done: int, total: int) -> None:
        if emit.should_stop():
            raise Interrupted("the import was stopped; nothing was kept", where=job.job_id)
        emit.progress("copy", done, total)

    details = import_base(files, writer, progress)
    counts = {name: details[name] for name in ("parameters", "tensors", "shards")}
    writer.finish(
        created_at=datetime.now(UTC).isoformat(),
        counts=counts,
        details=details,
    )
    return details
