"""The verb `rotate`: every file of one object read and sealed again under another data key.

Reads chunk by chunk, so each one is checked on the way. Knows nothing of what the files are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cloister.api import JobDocument
from cloister.errors import Interrupted
from cloister.worker.verbs import opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Seal again; returns how many files and bytes. Counts and details are those of the object."""
    writer = opening.open_writer(job)
    with opening.open_object(job, "object") as source:
        total = sum(record.size for record in source.manifest.files)
        done = 0
        emit.progress("sealing", 0, max(total, 1))
        for record in source.manifest.files:
            with source.open(record.path) as reader, writer.create(record.path) as file:
                for piece in reader.stream():
                    if emit.should_stop():
                        raise Interrupted("the rotation was stopped", remedy="Ask for it again.")
                    file.write(piece)
                    done += len(piece)
                    emit.progress("sealing", done, max(total, 1))
        manifest = source.manifest
        writer.finish(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            counts=manifest.counts,
            details=manifest.details,
        )
    return {"files": len(manifest.files), "bytes": total}
