"""The verb `evaluate`: base against tuned on the hold-out, greedily.

Loads once, switches the adapter off and on. Knows which numbers there are, not how they are computed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from cloister.api import EvaluateConfig, JobDocument
from cloister.datasets.render import prompt_ids_all
from cloister.errors import InvalidInput
from cloister.evaluation.generate import decode, greedy
from cloister.evaluation.loss import mean_loss
from cloister.evaluation.report import Sample, compare, encode_samples, score
from cloister.training.rows import RowSource, tokenise
from cloister.worker.verbs import measuring, opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Measure; returns the report's numbers."""
    config = EvaluateConfig.model_validate(job.config)
    measuring.prepare_torch(job)
    with ExitStack() as stack:
        given = measuring.open_measured(job, stack, max_rows=config.max_rows, seed=config.seed)
        base, adapter, holdout = given.base, given.adapter, given.holdout
        writer = opening.open_writer(job)
        emit.progress("load", 0, 1)
        base.check(full=True)
        tuned = measuring.load_tuned(job, base, adapter)
        emit.progress("load", 1, 1)

        expected, labels = _expected(holdout)
        bench = _Bench(holdout, tuned, config, emit)
        loss, answers_base = bench.measure("base", tuned.model.disable_adapter())
        base_scores = score(loss, answers_base, expected, labels)
        loss, answers_tuned = bench.measure("tuned", nullcontext())
        tuned_scores = score(loss, answers_tuned, expected, labels)

        values = compare(base_scores, tuned_scores, len(holdout))
        with writer.create("report.json") as file:
            file.write(msgspec.json.encode({"config": job.config, **values}))
        samples = [
            Sample(int(index), *texts)
            for index, *texts in zip(holdout.indices, expected, answers_base, answers_tuned, strict=True)
        ]
        with writer.create("samples.bin") as file:
            file.write(encode_samples(samples))
        opening.finish(writer, job, counts={"rows": len(holdout)}, details=values)
        return values


class _Bench:
    """The hold-out, rendered once, ready to measure the model with and without its adapter."""

    def __init__(
        self, rows: RowSource, tuned: measuring.Tuned, config: EvaluateConfig, emit: Emitter
    ) -> None:
        self.tuned, self.config, self.emit = tuned, config, emit
        self.tokens = tokenise(rows, tuned.tokenizer, tuned.max_length)
        self.prompts = prompt_ids_all([rows.row(i) for i in range(len(rows))], tuned.tokenizer)

    def measure(self, name: str, switch: AbstractContextManager[Any]) -> tuple[float, list[str]]:
        """The mean loss and the greedy answers while `switch` is entered."""
        model, tokenizer, config = self.tuned.model, self.tuned.tokenizer, self.config
        device = next(model.parameters()).device
        rows = len(self.prompts)
        with switch:
            loss = mean_loss(
                model,
                (self.tokens.batch(indices, device) for indices in self.tokens.by_length(config.batch_size)),
                on_batch=lambda done: self.emit.progress(name, done, 2 * rows),
                should_stop=self.emit.should_stop,
            )
            answers = greedy(
                model,
                tokenizer,
                self.prompts,
                config.max_new_tokens,
                config.batch_size,
                on_progress=lambda done, _: self.emit.progress(name, rows + done, 2 * rows),
                should_stop=self.emit.should_stop,
            )
        return loss, decode(tokenizer, answers)


def _expected(rows: RowSource) -> tuple[list[str], list[str] | None]:
    """What each row's answer should be, and its label where every row has one."""
    chosen = [rows.row(i) for i in range(len(rows))]
    labels = [row.label for row in chosen if row.label is not None]
    if labels and len(labels) != len(chosen):
        raise InvalidInput("Some rows have a label and some have none.", where=rows.name)
    return [row.messages[-1].content for row in chosen], labels or None
