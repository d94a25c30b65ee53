"""The verb `reveal`: a sealed body on one descriptor, its content on another, if it is what was committed to."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

from cloister.api import JobDocument, RevealConfig
from cloister.errors import InvalidInput
from cloister.vault.bodies import open_body

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter

MAX_SEALED = 1 << 30


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Open `descriptors["sealed"]` into `descriptors["output"]`; returns how many bytes.

    Raises:
        Tampered: it does not open, or is another body. Then nothing was written.
    """
    config = RevealConfig.model_validate(job.config)
    if not {"sealed", "output"} <= job.descriptors.keys():
        raise InvalidInput("revealing needs a body and somewhere to write it", where=job.job_id)
    with os.fdopen(job.descriptors["sealed"], "rb") as file:
        sealed = file.read(MAX_SEALED)
    body = open_body(sealed, base64.b64decode(config.key), bytes.fromhex(config.commitment), config.origin)
    emit.progress("reveal", 0, 1)
    try:
        with os.fdopen(job.descriptors["output"], "wb") as output:
            output.write(body)
    except BrokenPipeError:
        raise InvalidInput("whoever asked has gone", where=job.job_id) from None
    return {"bytes": len(body)}
