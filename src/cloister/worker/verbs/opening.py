"""What a job was granted, opened: dataset, base model, adapter, the rows to measure on, the output.

Knows the names under which the authority grants inputs; it does not know what a verb does with them.
"""

from __future__ import annotations

import base64
import hashlib
import random
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.api import Grant, JobDocument
from cloister.datasets.reader import DatasetReader
from cloister.errors import InvalidInput
from cloister.models.adapter import load_adapter
from cloister.models.load import load_base
from cloister.training.fused import fuse
from cloister.training.rows import RowSource
from cloister.vault import InputRef, Manifest, ObjectReader, ObjectWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

ADAPTER = "best"
"""Which adapter of a run is evaluated and merged."""


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


def open_holdout(job: JobDocument, dataset: DatasetReader, stack: ExitStack) -> RowSource:
    """The rows to measure on: all of the granted hold-out dataset, else the dataset's own split."""
    if "holdout" in job.inputs:
        other = stack.enter_context(open_dataset(job, "holdout"))
        return RowSource(other, other.indices("all"), "the hold-out dataset")
    return RowSource(dataset, dataset.indices("holdout"), "the hold-out")


def sample(rows: RowSource, most: int, seed: int) -> RowSource:
    """`rows`, or a seeded choice of `most` of them, in order. 0 means all."""
    if not most or len(rows) <= most:
        return rows
    chosen = random.Random(seed).sample(range(len(rows)), most)  # noqa: S311 - a choice of rows, no secret
    return RowSource(rows.rows, [rows.indices[i] for i in sorted(chosen)], rows.name)


def require_rows(rows: RowSource) -> None:
    """Raises InvalidInput where there is nothing to measure on."""
    if not len(rows):
        raise InvalidInput(
            "There are no hold-out rows to measure on.",
            where=rows.name,
            remedy="Import the dataset with a hold-out, or name a dataset to measure on.",
        )


@dataclass(frozen=True)
class Measured:
    """What a verb that measures works on: base and adapter, and the rows of the hold-out that it measures."""

    base: ObjectReader
    adapter: ObjectReader
    holdout: RowSource


def open_measured(job: JobDocument, stack: ExitStack, *, max_rows: int, seed: int) -> Measured:
    """Open them, at most `max_rows` rows of the hold-out. Raises InvalidInput where it has none."""
    dataset = stack.enter_context(open_dataset(job, "dataset"))
    base = stack.enter_context(open_object(job, "base"))
    adapter = stack.enter_context(open_object(job, "adapter"))
    holdout = open_holdout(job, dataset, stack)
    require_rows(holdout)
    return Measured(base, adapter, sample(holdout, max_rows, seed))


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


@dataclass(frozen=True)
class Tuned:
    """The base as it was trained on, carrying the run's adapter."""

    model: Any
    tokenizer: Any
    max_length: int


def load_tuned(job: JobDocument, base: ObjectReader, adapter: ObjectReader) -> Tuned:
    """Base and adapter, the base kept as in training (NF4 for QLoRA)."""
    method = adapter.manifest.details.get("method")
    if method not in ("qlora", "lora"):
        raise InvalidInput("The adapter does not say how it was trained.", where=adapter.manifest.object_id)
    model, tokenizer = load_base(base, method=method, device=job.device)
    model = load_adapter(model, adapter, ADAPTER)
    fuse(model)
    return Tuned(model.eval(), tokenizer, int(adapter.manifest.details["max_length"]))


def use_threads(job: JobDocument) -> None:
    """As many threads as the job was given; 0 leaves torch's choice."""
    if job.threads:
        import torch

        torch.set_num_threads(job.threads)


def _pins(grant: Grant) -> dict[str, Any]:
    return {
        "key": key_of(grant),
        "manifest_sha256": grant.manifest_sha256,
        "object_id": grant.object_id,
    }
