"""The verb `self-check`: tries, from inside, to get out, and says what held. Touches no object."""

from __future__ import annotations

from typing import Any

from cloister.api import JobDocument, SelfCheckConfig
from cloister.sandbox import self_check
from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """`passed`, `failed` (names of what did not hold) and `checks` ({name, passed, detail} each)."""
    config = SelfCheckConfig.model_validate(job.config)
    emit.progress("self-check", 0, 1)
    values = self_check(config)
    emit.progress("self-check", 1, 1)
    return values
