"""For each invariant of the architecture a fault that it guards against, and what its test says when that is planted.

`test_faults.py` plants each of them, one function exchanged at a time, and runs the invariant's own test on it. Run as
a program (`python -m tests.invariants.faults`) this prints the handbook's table.
"""

from __future__ import annotations

import importlib
import linecache
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.invariants import (
    test_evaluated_equals_not_evaluated,
    test_lora_weights_moved,
    test_merged_is_close_to_the_adapter,
    test_nothing_is_truncated_silently,
    test_one_bos_and_a_supervised_end_of_turn,
    test_one_by_eight_equals_eight_by_one,
    test_packed_equals_unpacked,
    test_padding_masked_by_position,
    test_resumed_equals_uninterrupted,
    test_row_ignores_neighbours,
    test_row_without_supervised_tokens_is_refused,
    test_saved_adapter_gives_the_evaluated_loss,
    test_sealed_trains_like_plain,
    test_trainer_ids_equal_engine_ids,
)

from cloister.datasets.render import Rendered
from cloister.models import adapter, merge
from cloister.training import attention, keeping, passes, recipe
from cloister.training import rows as training_rows
from cloister.training.rows import Batch, TokenRows
from cloister.worker.verbs import measuring
from cloister.worker.verbs import train as train_verb

rendering = importlib.import_module("cloister.datasets.render")  # its package has a function of that name
HERE = Path(__file__).parent
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """`line` is the architecture's, `guard` the module of its test, `run` that test, and `says` the statement in it
    that fails. `long` ones start an engine."""

    line: str
    planted: str
    plant: Plant
    guard: Any
    run: Callable[[Path], None]
    says: str
    long: bool = False

    @property
    def name(self) -> str:
        return f"{Path(self.guard.__file__).stem.removeprefix('test_')}: {self.planted}"


def failed_at(error: BaseException) -> str:
    """The statement of an invariant's test, or of what it asks with, at which it failed; else the error's own words."""
    found = f"{type(error).__name__}: {error}"
    trace = error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.parent == HERE and path.name not in ("faults.py", "test_faults.py"):
            found = linecache.getline(str(path), trace.tb_lineno).strip()
        trace = trace.tb_next
    return found


# --- the faults ---


def _moments_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keeping, "load_optimizer", lambda *anything: None)


def _evaluation_draws(patch: pytest.MonkeyPatch) -> None:
    looked = passes.Passes.holdout_loss

    def drawing(self: Any, rows: TokenRows) -> float | None:
        torch.rand(1)
        return looked(self, rows)

    patch.setattr(passes.Passes, "holdout_loss", drawing)


def _mean_of_means(patch: pytest.MonkeyPatch) -> None:
    def gradients(self: Any, step: int, supervised: int, *, last: bool) -> torch.Tensor:
        parts = list(self._batches.of(step, self._reached.micro_batch_size, False, last=last))
        nats = torch.zeros(1, dtype=torch.float64)
        for part in parts:
            found = passes.supervised_loss(self._model, part.input_ids, part.supervised)
            mean = found.nats / found.count / len(parts)
            mean.backward()
            nats += mean.detach() * supervised
        return nats

    patch.setattr(passes.Passes, "gradients", gradients)


def _borders_ignored(patch: pytest.MonkeyPatch) -> None:
    def leaking(query: Any, key: Any, value: Any, borders: Any, scale: float, window: Any) -> torch.Tensor:
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
        return found.transpose(1, 2)

    patch.setattr(attention, "_packed", leaking)


def _padded_on_the_left(patch: pytest.MonkeyPatch) -> None:
    batch = TokenRows.batch

    def left(self: TokenRows, indices: Any, device: Any = "cpu") -> Batch:
        made = batch(self, indices, device)
        shifts = [made.input_ids.shape[1] - int(self.lengths[i]) for i in indices]
        ids, mask = (
            torch.stack([row.roll(shift) for row, shift in zip(side, shifts, strict=True)])
            for side in (made.input_ids, made.supervised)
        )
        return Batch(ids, mask, made.tokens)

    patch.setattr(TokenRows, "batch", left)


def _rendering(patch: pytest.MonkeyPatch, change: Callable[[Rendered, Any], Rendered], **asked: Any) -> None:
    """Rows come out of rendering changed, asked for with other arguments."""
    render_all = training_rows.render_all

    def changed(rows: Any, tokenizer: Any, **given: Any) -> list[Rendered]:
        return [change(item, tokenizer) for item in render_all(rows, tokenizer, **(given | asked))]

    patch.setattr(training_rows, "render_all", changed)


def _alone_is_learnt(patch: pytest.MonkeyPatch) -> None:
    plain_texts = rendering._plain_texts

    def learnt(rows: Any, tokenizer: Any) -> list[tuple[int, Any]]:
        return [
            (at, item if isinstance(item, str) else Rendered(item.input_ids, [True] * len(item.input_ids), 0))
            for at, item in plain_texts(rows, tokenizer)
        ]

    patch.setattr(rendering, "_plain_texts", learnt)


def _no_end_looked_for(patch: pytest.MonkeyPatch) -> None:
    by_markers = rendering.by_markers

    def masked(rows: Any, prompts: Any, tokenizer: Any, template: str) -> Any:
        ids, masks, _ = by_markers(rows, prompts, tokenizer, template)
        return ids, [mask if any(mask) else [True] * len(mask) for mask in masks], {}

    patch.setattr(rendering, "by_markers", masked)


def _cut(patch: pytest.MonkeyPatch) -> None:
    render_all = training_rows.render_all

    def cutting(rows: Any, tokenizer: Any, *, max_length: int, **given: Any) -> list[Rendered]:
        return [
            Rendered(item.input_ids[:max_length], item.supervised[:max_length], item.prompt_length)
            for item in render_all(rows, tokenizer, **given)
        ]

    patch.setattr(training_rows, "render_all", cutting)


def _second_bos(patch: pytest.MonkeyPatch) -> None:
    def twice(item: Rendered, tokenizer: Any) -> Rendered:
        return Rendered(
            [tokenizer.bos_token_id, *item.input_ids], [False, *item.supervised], item.prompt_length + 1
        )

    _rendering(patch, twice)


def _end_not_learnt(patch: pytest.MonkeyPatch) -> None:
    _rendering(
        patch, lambda item, _: Rendered(item.input_ids, [*item.supervised[:-1], False], item.prompt_length)
    )


def _masked_by_id(patch: pytest.MonkeyPatch) -> None:
    def by_id(item: Rendered, tokenizer: Any) -> Rendered:
        mask = [
            learnt and token != tokenizer.pad_token_id
            for token, learnt in zip(item.input_ids, item.supervised, strict=True)
        ]
        return Rendered(item.input_ids, mask, item.prompt_length)

    _rendering(patch, by_id)


def _template_lost(patch: pytest.MonkeyPatch) -> None:
    copy_rest = merge._copy_rest
    other = "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}<|end|>{% endfor %}<|assistant|>"

    def losing(writer: Any, base: Any, template: Any) -> None:
        copy_rest(writer, base, (other, ()))

    patch.setattr(merge, "_copy_rest", losing)


def _scale_left_out(patch: pytest.MonkeyPatch) -> None:
    add = merge._add_in_place
    patch.setattr(
        merge, "_add_in_place", lambda weight, a, b, scale, lengths: add(weight, a, b, 1.0, lengths)
    )


def _alpha_lost(patch: pytest.MonkeyPatch) -> None:
    read = adapter.read_adapter_config
    patch.setattr(adapter, "read_adapter_config", lambda files: replace(read(files), alpha=read(files).rank))


def _nobody_looks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recipe, "require_movement", lambda *anything: None)


def _other_order(patch: pytest.MonkeyPatch) -> None:
    nested = measuring.nested

    def turned(rows: Any, most: int, seed: int) -> Any:
        found = nested(rows, most, seed)
        return training_rows.RowSource(found.rows, list(found.indices)[::-1], found.name)

    patch.setattr(measuring, "nested", turned)


def _cache_in_the_open(patch: pytest.MonkeyPatch) -> None:
    opened = train_verb._open

    def caching(job: Any, *rest: Any) -> Any:
        given = opened(job, *rest)
        texts = [text for i in range(len(given.rows)) for text in given.rows.row(i).texts()]
        Path(job.output.path).with_suffix(".cache").write_text("\n".join(texts))
        return given

    patch.setattr(train_verb, "_open", caching)


# --- and who catches them ---

FAULTS = (
    Fault(
        "resumed ≡ uninterrupted",
        "a resumed run begins with fresh optimizer moments",
        _moments_forgotten,
        test_resumed_equals_uninterrupted,
        lambda folder: test_resumed_equals_uninterrupted.test_stopped_at_random_steps(folder, 0.0),
        "assert outcome.losses == whole.losses",
    ),
    Fault(
        "evaluated mid-run ≡ not evaluated",
        "looking at the hold-out draws a random number",
        _evaluation_draws,
        test_evaluated_equals_not_evaluated,
        lambda folder: test_evaluated_equals_not_evaluated.test_the_trajectory_is_the_same(),
        "assert other.losses == runs[0].losses",
    ),
    Fault(
        "1×8 accumulation ≡ 8×1",
        "a step's loss is the mean of its micro-batches' means",
        _mean_of_means,
        test_one_by_eight_equals_eight_by_one,
        lambda folder: (
            test_one_by_eight_equals_eight_by_one.test_rows_with_many_supervised_tokens_weigh_more()
        ),
        "assert one.losses == pytest.approx(other.losses, rel=1e-5)",
    ),
    Fault(
        "packed ≡ unpacked",
        "attention does not know where a packed row begins",
        _borders_ignored,
        test_packed_equals_unpacked,
        lambda folder: test_packed_equals_unpacked.test_loss_and_gradients_are_those_of_the_rows_alone(
            "llama", (5, 12, 9, 1, 20)
        ),
        "assert packed[0] == pytest.approx(alone[0], rel=1e-5)",
    ),
    Fault(
        "a row's logits ignore its neighbours",
        "rows are padded on the left, and nobody tells the model",
        _padded_on_the_left,
        test_row_ignores_neighbours,
        lambda folder: test_row_ignores_neighbours.test_alone_or_in_company(False),
        "torch.testing.assert_close(logits[row : row + 1, :length], own, rtol=1e-4, atol=1e-5)",
    ),
    Fault(
        "a row without supervised tokens is refused",
        "a mask that is empty counts as `learn everything`",
        _no_end_looked_for,
        test_row_without_supervised_tokens_is_refused,
        lambda folder: (
            test_row_without_supervised_tokens_is_refused.test_a_row_without_supervised_tokens_is_refused()
        ),
        "with pytest.raises(InvalidInput) as caught:",
    ),
    Fault(
        "a row without supervised tokens is refused",
        "a text's only token counts as learnt",
        _alone_is_learnt,
        test_row_without_supervised_tokens_is_refused,
        lambda folder: test_row_without_supervised_tokens_is_refused.test_a_text_of_one_token_is_refused(),
        "with pytest.raises(InvalidInput) as caught:",
    ),
    Fault(
        "nothing is truncated silently",
        "a conversation is cut at `max_length`",
        _cut,
        test_nothing_is_truncated_silently,
        lambda folder: test_nothing_is_truncated_silently.test_nothing_is_truncated_silently(),
        "with pytest.raises(InvalidInput) as caught:",
    ),
    Fault(
        "one BOS",
        "the tokenizer adds one before the template's own",
        _second_bos,
        test_one_bos_and_a_supervised_end_of_turn,
        lambda folder: test_one_bos_and_a_supervised_end_of_turn.test_one_bos_and_a_supervised_end_of_turn(
            "tiny"
        ),
        "assert ids.count(tokenizer.bos_token_id) == 1",
    ),
    Fault(
        "a supervised end-of-turn",
        "the mask ends with the answer's last word",
        _end_not_learnt,
        test_one_bos_and_a_supervised_end_of_turn,
        lambda folder: test_one_bos_and_a_supervised_end_of_turn.test_one_bos_and_a_supervised_end_of_turn(
            "tiny"
        ),
        "assert mask[-1]",
    ),
    Fault(
        "padding masked by position",
        "whatever has the padding token's id is masked",
        _masked_by_id,
        test_padding_masked_by_position,
        lambda folder: test_padding_masked_by_position.test_the_pad_token_s_id_does_not_matter(),
        "assert torch.equal(batches[0].supervised, batches[1].supervised)",
    ),
    Fault(
        "trainer's token ids ≡ the engine's",
        "the merged model has another chat template than the trainer",
        _template_lost,
        test_trainer_ids_equal_engine_ids,
        test_trainer_ids_equal_engine_ids.of_a_merged_model,
        'found = serve_and_compare(make(root, "qwen3", "qlora"))',
        long=True,
    ),
    Fault(
        "merged ≈ adapter, measured",
        "the merge leaves out alpha / rank",
        _scale_left_out,
        test_merged_is_close_to_the_adapter,
        lambda folder: test_merged_is_close_to_the_adapter.test_merged_is_close_to_the_adapter(
            folder, "plain"
        ),
        'assert values["loss_merged"] == pytest.approx(values["loss_adapter"], abs=0.05)',
    ),
    Fault(
        "the saved adapter, reloaded, gives the evaluated loss",
        "its alpha is not read back",
        _alpha_lost,
        test_saved_adapter_gives_the_evaluated_loss,
        lambda folder: (
            test_saved_adapter_gives_the_evaluated_loss.test_the_reloaded_adapter_gives_the_evaluated_loss(
                folder, "lora"
            )
        ),
        'assert mean_loss(model, batches) == values["holdout_loss"]',
    ),
    Fault(
        "LoRA weights moved",
        "a layer gets no gradient, and nobody looks",
        _nobody_looks,
        test_lora_weights_moved,
        lambda folder: test_lora_weights_moved.test_a_layer_that_gets_no_gradient_stops_the_first_save(
            folder
        ),
        "with pytest.raises(JobFailed) as caught:",
    ),
    Fault(
        "sealed data trains exactly like plain data",
        "rows out of a sealed file come in another order",
        _other_order,
        test_sealed_trains_like_plain,
        lambda folder: test_sealed_trains_like_plain.test_sealed_and_plain_trajectories_are_the_same(folder),
        "assert tiny.same_adapter(plain.last, sealed)",
    ),
    Fault(
        "sealed data trains exactly like plain data",
        "its rows lie in a cache beside the adapter, in the open",
        _cache_in_the_open,
        test_sealed_trains_like_plain,
        lambda folder: test_sealed_trains_like_plain.test_sealed_and_plain_trajectories_are_the_same(folder),
        "assert not any(CANARY.encode() in content for content in left)",
    ),
)

LINES = (
    "resumed ≡ uninterrupted",
    "evaluated mid-run ≡ not evaluated",
    "1×8 accumulation ≡ 8×1",
    "packed ≡ unpacked",
    "a row's logits ignore its neighbours",
    "a row without supervised tokens is refused",
    "nothing is truncated silently",
    "one BOS",
    "a supervised end-of-turn",
    "padding masked by position",
    "trainer's token ids ≡ the engine's",
    "merged ≈ adapter, measured",
    "the saved adapter, reloaded, gives the evaluated loss",
    "LoRA weights moved",
    "sealed data trains exactly like plain data",
)
"""The list that training never gets wrong, line by line."""


def table() -> str:
    """The handbook's table."""
    head = "| invariant | fault planted | its test, and what failed in it |\n|---|---|---|\n"
    return head + "".join(
        f"| {one.line} | {one.planted} | `{Path(one.guard.__file__).name}`: `{one.says}` |\n"
        for one in FAULTS
    )


if __name__ == "__main__":
    print(table(), end="")
