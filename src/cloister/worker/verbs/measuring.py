"""What training and measuring need beyond the granted objects: hold-out rows, threads, the tuned model.

Knows rows and models; the objects themselves `opening` opens.
"""

from __future__ import annotations

import gc
import random
import resource
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cloister.api import JobDocument, LossOn
from cloister.datasets.duplicates import input_hash
from cloister.datasets.reader import DatasetReader
from cloister.datasets.templates import use_template
from cloister.errors import InvalidInput, JobFailed
from cloister.models.adapter import load_adapter
from cloister.models.load import load_base
from cloister.models.merge import with_ends
from cloister.training.fused import fuse
from cloister.training.rows import RowSource, TokenRows, tokenise
from cloister.vault import ObjectReader
from cloister.worker.verbs import opening

ADAPTER = "best"
"""Which adapter of a run is evaluated and merged."""


def open_holdout(job: JobDocument, dataset: DatasetReader, stack: ExitStack) -> RowSource:
    """The rows to measure on: all of the granted hold-out dataset, else the dataset's own split."""
    if "holdout" in job.inputs:
        other = stack.enter_context(opening.open_dataset(job, "holdout"))
        return RowSource(other, other.indices("all"), "the hold-out dataset")
    return RowSource(dataset, dataset.indices("holdout"), "the hold-out")


def sample(rows: RowSource, most: int, seed: int) -> RowSource:
    """`rows`, or a seeded choice of `most` of them, in order. 0 means all."""
    if not most or len(rows) <= most:
        return rows
    chosen = random.Random(seed).sample(range(len(rows)), most)  # noqa: S311 - a choice of rows, no secret
    return RowSource(rows.rows, [rows.indices[i] for i in sorted(chosen)], rows.name)


def nested(rows: RowSource, most: int, seed: int) -> RowSource:
    """`rows`, or `most` of them in order: by one seed a smaller choice lies within every larger one. 0 means all."""
    if not most or len(rows) <= most:
        return rows
    chosen = np.sort(np.random.default_rng(seed % (1 << 64)).permutation(len(rows))[:most])
    return RowSource(rows.rows, [rows.indices[int(i)] for i in chosen], rows.name)


def asked_in_both(rows: RowSource, holdout: RowSource) -> int:
    """Rows of the hold-out whose input is trained on; case and white space make no difference."""
    asked = Counter(input_hash(holdout.row(position)) for position in range(len(holdout)))
    trained = {key for position in range(len(rows)) if (key := input_hash(rows.row(position))) in asked}
    return sum(asked[key] for key in trained)


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

    dataset: DatasetReader
    base: ObjectReader
    adapter: ObjectReader
    holdout: RowSource


def open_measured(job: JobDocument, stack: ExitStack, *, max_rows: int, seed: int) -> Measured:
    """Open them, at most `max_rows` rows of the hold-out. Raises InvalidInput where it has none."""
    dataset = stack.enter_context(opening.open_dataset(job, "dataset"))
    base = stack.enter_context(opening.open_object(job, "base"))
    adapter = stack.enter_context(opening.open_object(job, "adapter"))
    holdout = open_holdout(job, dataset, stack)
    require_rows(holdout)
    return Measured(dataset, base, adapter, sample(holdout, max_rows, seed))


@dataclass(frozen=True)
class Tuned:
    """The base as it was trained on, carrying the run's adapter; `tokens` are of rows as the run learnt them."""

    model: Any
    tokenizer: Any
    max_length: int
    loss_on: LossOn

    def tokens(self, rows: RowSource) -> TokenRows:
        """Rows in the run's template, supervised where the run's were: their loss is that of its hold-out."""
        return tokenise(rows, self.tokenizer, self.max_length, loss_on=self.loss_on)


def load_tuned(job: JobDocument, base: ObjectReader, adapter: ObjectReader) -> Tuned:
    """Base and adapter, the base kept as in training (NF4 for QLoRA)."""
    method = adapter.manifest.details.get("method")
    if method not in ("qlora", "lora"):
        raise InvalidInput("The adapter does not say how it was trained.", where=adapter.manifest.object_id)
    model, tokenizer = load_base(base, method=method, device=job.device)
    use_run_template(model, tokenizer, template_of(adapter))
    model = load_adapter(model, adapter, ADAPTER)
    fuse(model)
    learnt = adapter.manifest.details
    loss_on = learnt.get("loss_on", "assistant")  # older runs did not say: there was no other
    return Tuned(model.eval(), tokenizer, int(learnt["max_length"]), loss_on)


def let_go() -> None:
    """Free the memory of tuned models that are no longer referred to. They refer to themselves, a layer and its fused
    forward, a 4-bit layer and its weight: only the collector finds them, and it would come when it likes."""
    gc.collect()


def template_of(adapter: ObjectReader) -> str:
    """The name of the chat template that a run was trained with; older ones were with the model's own."""
    return str(adapter.manifest.details.get("template", "auto"))


def use_run_template(model: Any, tokenizer: Any, name: str) -> None:
    """Have tokenizer and model speak that template: what ends a turn in it ends an answer."""
    ends = use_template(tokenizer, name)
    if ends:
        model.generation_config.eos_token_id = with_ends(model.generation_config.eos_token_id, ends)


def peak_bytes(device: str) -> int:
    """The most memory that this process has held: of its GPU, or resident where it has none."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def prepare_torch(job: JobDocument) -> None:
    """As many threads as the job was given (0 leaves torch's choice), on the device that it was given.

    Errors: JobFailed where torch does not find that device.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    if job.device == "cuda" and not torch.cuda.is_available():
        raise JobFailed(
            "The job was given a GPU, and torch finds none in the sandbox.",
            remedy="`cloister doctor` says why: the driver, or an installation without CUDA. To use the CPU, set "
            "`queue.devices: cpu`.",
        )
