"""The verb `merge`: adapter and base into one 16-bit model, the closer of two candidates.

On the pristine and on the NF4 round-tripped base, each measured against the adapter on the hold-out;
refused where neither is close. Knows how to choose, not how to merge.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from cloister.api import JobDocument, MergeConfig
from cloister.datasets.render import asked_ids
from cloister.datasets.templates import TEMPLATES, use_template
from cloister.errors import JobFailed
from cloister.evaluation.generate import greedy
from cloister.evaluation.loss import mean_loss
from cloister.evaluation.metrics import agreement
from cloister.models.load import load_base, load_model
from cloister.models.merge import merge_to, merged_weights
from cloister.training.rows import RowSource, TokenRows
from cloister.vault import ObjectReader
from cloister.worker.verbs import measuring, opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter

BATCH = 64
"""Rows that are measured at once."""

Variant = Literal["pristine", "nf4"]


@dataclass(frozen=True)
class Candidate:
    """How one merged model compares with the adapter: loss in nats a supervised token, and the share of
    rows that it answers with exactly the adapter's tokens."""

    loss: float
    greedy_agreement: float

    def gap(self, adapter_loss: float) -> float:
        """How far its loss is from the adapter's, either way."""
        return abs(self.loss - adapter_loss)


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Merge; returns the figures of both candidates."""
    config = MergeConfig.model_validate(job.config)
    measuring.prepare_torch(job)
    with ExitStack() as stack:
        given = measuring.open_measured(job, stack, max_rows=config.max_rows, seed=config.seed)
        base, adapter, holdout = given.base, given.adapter, given.holdout
        writer = opening.open_writer(job)

        # Measure the adapter, then each candidate, one model in memory at a time.
        emit.progress("adapter", 0, 1)
        base.check(full=True)
        tuned = measuring.load_tuned(job, base, adapter)
        bench = _Bench(holdout, tuned, config, emit)
        loss_adapter, wanted = bench.measure(tuned.model, "adapter")
        method = adapter.manifest.details["method"]
        template = _own_template(tuned.tokenizer, adapter)
        del tuned
        measuring.let_go()
        variants: tuple[Variant, ...] = ("nf4", "pristine") if method == "qlora" else ("pristine",)
        candidates: dict[str, Candidate] = {}
        for variant in variants:
            emit.progress(variant, 0, 1)
            weights = merged_weights(
                base, adapter, base_variant=variant, prefix=measuring.ADAPTER, device=job.device
            )
            loss, answers = bench.measure(load_model(base, weights, device=job.device), variant)
            candidates[variant] = Candidate(loss, agreement(answers, wanted))

        # Choose.
        chosen = choose(candidates, loss_adapter, config, len(holdout))
        best = candidates[chosen]
        values = {
            "base": chosen,
            "loss_adapter": loss_adapter,
            "loss_merged": best.loss,
            "greedy_agreement": best.greedy_agreement,
            "candidates": {name: asdict(candidate) for name, candidate in candidates.items()},
            "rows": len(holdout),
        }

        # Write the chosen one, and read it back: what is stored must be what was measured.
        merged = merge_to(
            writer,
            base,
            adapter,
            base_variant=chosen,
            prefix=measuring.ADAPTER,
            device=job.device,
            template=template,
            progress=lambda done, total: emit.progress("write", done, total),
        )
        opening.finish(
            writer,
            job,
            counts={"tensors": merged.tensors, "parameters": merged.parameters, "rows": len(holdout)},
            details=values,
        )
        _check_stored(job, bench, best.loss)
        return values


def _own_template(tokenizer: Any, adapter: ObjectReader) -> tuple[str, tuple[int, ...]] | None:
    """The template that the merged model carries in place of its base's: the one that it was trained with."""
    name = measuring.template_of(adapter)
    ends = use_template(tokenizer, name)
    return (TEMPLATES[name].text, ends) if ends else None


def choose(candidates: dict[str, Candidate], loss_adapter: float, config: MergeConfig, rows: int) -> Variant:
    """The candidate closest to the adapter, measured on so many `rows`: by greedy agreement, then by loss.

    Raises:
        JobFailed: the closest is not close enough; the message has the figures of all.
    """
    name, best = max(
        candidates.items(), key=lambda item: (item[1].greedy_agreement, -item[1].gap(loss_adapter))
    )
    others = round((1 - best.greedy_agreement) * rows)
    if others > _may_differ(config.min_agreement, rows) or best.gap(loss_adapter) > config.max_loss_gap:
        figures = "; ".join(
            f"{each}: agreement {c.greedy_agreement:.3f}, loss {c.loss:.4f}" for each, c in candidates.items()
        )
        raise JobFailed(
            f"No merged candidate is close to the adapter (loss {loss_adapter:.4f}): {figures}.",
            remedy=f"Asked for were an agreement of {config.min_agreement} on {rows} rows and a loss within "
            f"{config.max_loss_gap}. Lower these bounds only with a reason.",
        )
    return "nf4" if name == "nf4" else "pristine"


def _may_differ(min_agreement: float, rows: int) -> int:
    """How many answers: where a bound below 1 lets less than one differ, one. Rounding turns a single answer at a near
    tie, and on twenty rows that would be five in a hundred."""
    return 0 if min_agreement == 1 else max(1, math.floor((1 - min_agreement) * rows + 1e-9))


class _Bench:
    """The hold-out, ready to measure one model after the other in the same way."""

    def __init__(self, rows: RowSource, tuned: measuring.Tuned, config: MergeConfig, emit: Emitter) -> None:
        self.tokens: TokenRows = tuned.tokens(rows)
        self.prompts = asked_ids([rows.row(i) for i in range(len(rows))], tuned.tokenizer)
        self.tokenizer, self.config, self.emit = tuned.tokenizer, config, emit

    def loss(self, model: Any) -> float:
        device = next(model.parameters()).device
        batches = (self.tokens.batch(indices, device) for indices in self.tokens.by_length(BATCH))
        return mean_loss(model, batches, should_stop=self.emit.should_stop)

    def measure(self, model: Any, stage: str) -> tuple[float, list[list[int]]]:
        """The mean loss, and the greedy answers as tokens."""
        loss = self.loss(model)
        answers = greedy(
            model,
            self.tokenizer,
            self.prompts,
            self.config.max_new_tokens,
            BATCH,
            on_progress=lambda done, total: self.emit.progress(stage, done, total),
            should_stop=self.emit.should_stop,
        )
        return loss, answers


def _check_stored(job: JobDocument, bench: _Bench, measured: float) -> None:
    """Load the sealed model as the engine will, and compare its loss. Raises JobFailed."""
    assert job.output is not None
    out = job.output
    with ObjectReader(opening.path_of(out), key=opening.key_of(out), object_id=out.object_id) as stored:
        model, _ = load_base(stored, method="none", device=job.device, dtype=torch.bfloat16)
    loss = bench.loss(model)
    if abs(loss - measured) > 1e-6:
        raise JobFailed(f"The stored model's loss is {loss:.6f}, the measured candidate's {measured:.6f}.")
