"""What a job was granted, opened: datasets, other objects, and the output.

Knows grants and the names under which the authority gives them; neither models nor what a verb does with
its inputs. Loads no torch: a verb that only moves rows starts at once.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.api import Grant, JobDocument
from cloister.datasets.reader import DatasetReader
from cloister.errors import InvalidInput
from cloister.vault import InputRef, Manifest, ObjectReader, ObjectWriter

if TYPE_CHECKING:
    from collections.abc import Mapping


def grant_of(job: JobDocument, name: str) -> Grant:
    """The grant of input `name`. Raises InvalidInput where the job has none."""
    grant = job.inputs.get(name)
    if grant is None:
        raise InvalidInput(f"The job grants no {name}.", where=job.job_id)
    return grant


def key_of(grant: Grant) -> bytes | None:
    """The data key of a sealed object, None for one in the open."""
    return None if grant.key is None else base64.b64decode(grant.key)


def path_of(grant: Grant) -> Path:
    """The folder where a granted object lies, inside the sandbox."""
    return Path(grant.path)


def open_object(job: JobDocument, name: str) -> ObjectReader:
    """Input `name`, its manifest checked against the grant."""
    grant = grant_of(job, name)
    return ObjectReader(Path(grant.path), **_pins(grant))


def open_dataset(job: JobDocument, name: str) -> DatasetReader:
    """Input `name` as rows."""
    grant = grant_of(job, name)
    return DatasetReader(Path(grant.path), **_pins(grant))


def open_writer(job: JobDocument) -> ObjectWriter:
    """The job's output."""
    if job.output is None:
        raise InvalidInput("The job has no output.", where=job.job_id)
    out = job.output
    return ObjectWriter(
        Path(out.path), object_id=out.object_id, kind=str(out.kind), version=out.version, key=key_of(out)
    )


def finish(
    writer: ObjectWriter, job: JobDocument, *, counts: Mapping[str, int], details: Mapping[str, Any]
) -> Manifest:
    """Write the manifest: what the object was made from, and by which configuration."""
    inputs = []
    for name in sorted(job.inputs):
        grant = job.inputs[name]
        digest = grant.manifest_sha256
        if digest is None:
            digest = hashlib.sha256((Path(grant.path) / "manifest.json").read_bytes()).hexdigest()
        inputs.append(InputRef(grant.object_id, grant.version, digest))
    return writer.finish(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs=tuple(inputs),
        counts=dict(counts),
        details=dict(details),
    )


def _pins(grant: Grant) -> dict[str, Any]:
    return {
        "key": key_of(grant),
        "manifest_sha256": grant.manifest_sha256,
        "object_id": grant.object_id,
    }
