"""Memory that runs out, a loss that grows, patience that ends: the run goes on smaller, or ends and says why."""

from __future__ import annotations

import math
import random
import resource
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from cloister.errors import InvalidInput, JobFailed
from cloister.models.adapter import adapter_state, set_adapter_state
from cloister.models.borders import Borders
from cloister.training import attention, passes, probe, reached
from cloister.training.checkpoint import CheckpointStore
from cloister.training.outcome import WentWrong
from cloister.training.ranks import Ranks
from cloister.training.reached import DIVERGED_STEPS, Reached
from cloister.worker.bounded import bound_growth


def narrow(most: int, after: int = 0) -> Any:
    """The tiny model on a machine that holds `most` tokens at once, `after` so many forward passes."""
    model = tiny.adapted()
    seen = [0]

    def guard(module: Any, arguments: Any, known: Any) -> None:
        seen[0] += 1
        ids = known.get("input_ids", arguments[0] if arguments else None)
        if seen[0] > after and ids.numel() > most:
            raise torch.OutOfMemoryError("made up")

    model.get_base_model().model.register_forward_pre_hook(guard, with_kwargs=True)
    return model


@pytest.mark.parametrize("packing", ["on", "off"])
@pytest.mark.parametrize("after", [0, 9], ids=["at-the-probe", "later"])
def test_out_of_memory_goes_on_with_fewer_rows_and_the_same_result(packing: Any, after: int) -> None:
    settings = tiny.config(packing=packing, gradient_checkpointing=False)
    wanted = tiny.fine_tune(settings)
    said: list[str] = []
    outcome = tiny.fine_tune(
        settings, made=narrow(130, after), on_notice=lambda level, text: said.append(text)
    )
    assert any("Memory ran out" in text for text in said)
    assert outcome.fell_back and not wanted.fell_back
    assert outcome.losses == pytest.approx(wanted.losses, rel=1e-4)
    assert outcome.holdout_loss == pytest.approx(wanted.holdout_loss, rel=1e-4)


class Graph:
    """Stands for all that a forward pass keeps for its backward pass."""


class RunsOut(torch.autograd.Function):
    """Passes its input on; at its turn the backward pass runs out of memory. `failed` are the graphs of those."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, turns: list[bool], failed: list[weakref.ref[Graph]]
    ) -> torch.Tensor:
        ctx.graph, ctx.turns, ctx.failed = Graph(), turns, failed
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        if ctx.turns.pop(0):
            ctx.failed.append(weakref.ref(ctx.graph))
            raise torch.OutOfMemoryError("made up")
        return grad, None, None


@pytest.mark.parametrize("checkpointing", ["auto", False])
def test_what_a_failed_pass_kept_is_gone_before_the_next_one(checkpointing: Any) -> None:
    """Else the smaller one has no room: what ran out while it went backward is nearly all of the memory."""
    model = tiny.adapted()
    turns = [False, True] + [False] * 20  # the probe, the first step, what comes after it
    failed: list[weakref.ref[Graph]] = []
    kept: list[bool] = []

    def watched(module: Any, arguments: Any, known: Any, output: Any) -> Any:
        kept.append(any(graph() is not None for graph in failed))
        if torch.is_grad_enabled():
            output.last_hidden_state = RunsOut.apply(output.last_hidden_state, turns, failed)
        return output

    model.get_base_model().model.register_forward_hook(watched, with_kwargs=True)
    settings = tiny.config(max_steps=2, packing="off", gradient_checkpointing=checkpointing)
    assert tiny.fine_tune(settings, made=model).fell_back
    assert len(failed) == 1 and not any(kept)


def test_activations_are_recomputed_first_where_that_may_be() -> None:
    said: list[str] = []
    tiny.fine_tune(
        tiny.config(max_steps=1), made=narrow(130), on_notice=lambda level, text: said.append(text)
    )
    told = [text for text in said if "Memory ran out" in text]
    assert "recomputed" in told[0] and "rows go through" in told[1]


def test_what_no_row_fits_into_ends_the_run_before_it_begins() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        tiny.fine_tune(made=narrow(10))


def test_a_loss_that_grows_and_stays_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.adapted()
    # Random weights cannot get much worse than they are: learn first.
    tiny.fine_tune(tiny.config(epochs=5, learning_rate=1e-2), made=model, holdout=0)
    wild = tiny.config(learning_rate=1.0, max_grad_norm=1e9, lr_scheduler="constant")
    with monkeypatch.context() as patch:
        patch.setattr(reached, "DIVERGED_STEPS", 3)
        with pytest.raises(JobFailed, match="grew from"):
            tiny.fine_tune(wild, made=model, holdout=0)


def followed(losses: list[float], batch_size: int = 16) -> tuple[int, str] | None:
    """The step at which a run of these losses is taken to have diverged, and the words."""
    reached = Reached()
    for step, loss in enumerate(losses, 1):
        reached.step = step
        reached.losses.append(loss)
        if (how := reached.diverged(batch_size)) is not None:
            return step, how
    return None


def test_far_above_the_start_for_long_is_divergence_and_less_is_none() -> None:
    assert followed([2.0] + [3.4] * 10 * DIVERGED_STEPS) is None
    found = followed([2.0] + [3.6] * DIVERGED_STEPS)
    assert found == (21, "The loss grew from 2.000 to 3.600 by step 21 and stayed there.")
    assert followed([2.0] + [3.6] * (DIVERGED_STEPS - 1) + [3.4]) is None


def test_what_is_learnt_and_then_lost_is_divergence_though_it_is_not_above_the_start() -> None:
    """As a run of the demo's base at a rate that grows to 1 goes: down, up, and flat where it began."""
    lost = [4.7, 3.1, 1.6, 0.9, 0.8, 2.6, 5.4, 6.4, 8.3, 8.5, 12.0, 11.0, 10.5] + [4.6] * 100
    found = followed(lost)
    assert found is not None and found[0] < 40
    assert (
        "had fallen from 4.700 to 0.900 and is back at" in found[1] and "what was learnt is lost" in found[1]
    )
    recovered = lost[:13] + [4.0] * (DIVERGED_STEPS - 10) + [0.7] * 100
    assert followed(recovered) is None, "a bump"
    overfits = [2.0, 1.0, 0.6] + [0.5, 0.7] * 50
    assert followed(overfits) is None
    worse = [2.0, 1.0, 0.3, 0.3, 0.3] + [1.2] * 100
    assert followed(worse) is None, "far above what it had come to, and not back where it began"


def test_one_easy_row_at_the_start_kills_no_run_of_single_rows() -> None:
    draw = random.Random(3)
    rows = [0.1, *(draw.uniform(1.5, 2.5) for _ in range(400))]
    assert followed(rows, batch_size=1) is None
    assert followed(rows, batch_size=16) is not None, "of so many rows it is no accident"


def test_a_resumed_run_remembers_what_it_had_come_to(tmp_path: Path) -> None:
    kept = CheckpointStore(tmp_path / "c", object_id="ad-0123456789ab", kind="adapter", key=None)
    tiny.fine_tune(tiny.config(epochs=5, checkpoint_every=30), checkpoints=kept)
    found = kept.latest()
    assert found is not None
    before = Reached.read(found.state["reached"])
    assert before.low is not None and before.low < before.losses[0]


def test_a_run_that_never_came_below_its_start_is_told_so() -> None:
    told = Reached(losses=[2.0, 9.0, 5.0], holdout_losses=[(1, 8.0), (3, 5.0)]).risen(16)
    assert told is not None and "never lower than 5" in told and "began at 2" in told
    assert Reached(losses=[2.0, 9.0], holdout_losses=[(1, 1.9), (2, 5.0)]).risen(16) is None
    assert Reached(losses=[2.0, 9.0]).risen(16) is None, "nothing was held out"
    harder = Reached(losses=[2.0, 1.0], holdout_losses=[(2, 4.0)], holdout_start=5.0)
    assert harder.risen(16) is None, "rows that are harder than those it learns from"
    told = Reached(losses=[2.0, 1.0], holdout_losses=[(2, 1.9)], holdout_start=1.8).risen(16)
    assert told is not None and "it was 1.8 before the first step" in told
    said: list[tuple[str, str]] = []
    tiny.fine_tune(
        tiny.config(learning_rate=1e-9, epochs=1), on_notice=lambda level, text: said.append((level, text))
    )
    assert any(level == "warning" and "taught the model nothing" in text for level, text in said)


def test_what_is_good_of_a_run_that_went_wrong_is_from_before_it_did() -> None:
    calm, far = [2.0, 1.8, 1.6], [3.6] * DIVERGED_STEPS

    def good(losses: list[float], best_step: int, holdout_loss: float) -> bool:
        measured = [(best_step, holdout_loss)]
        return Reached(losses=losses, best_step=best_step, holdout_losses=measured).good(16)

    assert good([*calm, *far], 3, 1.7)
    assert not good([*calm, *far], 4, 1.7), "measured too late"
    assert not good([*calm, *far], 3, 3.6), "as bad itself"
    assert good(calm, 3, 1.7), "the next was no number"
    assert not Reached(losses=[*calm, *far]).good(16) and not Reached().good(16)


def test_patience_ends_a_run_that_gets_no_better_and_resumes_to_the_same_end(tmp_path: Any) -> None:
    settings = tiny.config(learning_rate=0.05, epochs=30, eval_every=2, checkpoint_every=2, patience=3)
    said: list[str] = []
    outcome = tiny.fine_tune(settings, on_notice=lambda level, text: said.append(text))
    assert outcome.steps < 180
    losses = [loss for _, loss in outcome.holdout_losses]
    assert losses.index(min(losses)) == len(losses) - 4
    assert outcome.best_step == outcome.holdout_losses[-4][0]
    assert any("lowest after step" in text for text in said)


def test_patience_without_a_holdout_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Patience"):
        tiny.fine_tune(tiny.config(patience=2), holdout=0)


def test_a_paged_optimizer_needs_a_gpu() -> None:
    with pytest.raises(InvalidInput, match="needs a GPU"):
        tiny.fine_tune(tiny.config(optimizer="paged_adamw_8bit"))


class Meeting:
    """Where two threads hand each other tensors, each waiting for the other."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2, timeout=300)
        self.given: list[Any] = [None, None]

    def exchange(self, rank: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.given[rank] = tensor.clone()
        self.both.wait()
        found = list(self.given)
        self.both.wait()
        return found


class Side(Ranks):
    """One of two processes of a run, as a thread."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, 2, meeting

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            one, other = self.gather(tensor)
            tensor.copy_(one + other)

    def told(self, flag: bool) -> bool:
        return bool(self.gather(torch.tensor([flag]))[0])

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return self.meeting.exchange(self.rank, tensor)


def test_where_memory_ran_out_in_one_process_alone_each_row_of_the_hold_out_counts_once() -> None:
    settings = tiny.config(packing="off", gradient_checkpointing=False, micro_batch_size=4, eval_every=3)
    wanted = tiny.fine_tune(settings)
    meeting = Meeting()
    models = (tiny.adapted(), narrow(130, 9))
    with ThreadPoolExecutor(2) as pool:
        sides = [
            pool.submit(tiny.fine_tune, settings, made=model, ranks=Side(rank, meeting))
            for rank, model in enumerate(models)
        ]
        outcomes = [side.result() for side in sides]
    for outcome in outcomes:
        assert outcome.losses == pytest.approx(wanted.losses, rel=1e-4)
        assert [loss for _, loss in outcome.holdout_losses] == pytest.approx(
            [loss for _, loss in wanted.holdout_losses], rel=1e-4
        )


def test_processes_of_a_run_that_goes_wrong_go_back_to_the_same_copy() -> None:
    """Each measures its share of the hold-out with it: one that did not would wait for ever."""
    settings = tiny.config(batch_size=2, micro_batch_size=1, evals_per_epoch=0.5)
    meeting = Meeting()

    models = (tiny.adapted(), tiny.adapted())

    def gone_wrong(rank: int) -> WentWrong:
        model = models[rank]

        def progress(stage: str, done: int, total: int) -> None:
            if (stage, done) == ("train", 23):
                bad = {name: torch.full_like(one, math.nan) for name, one in adapter_state(model).items()}
                set_adapter_state(model, bad)

        with pytest.raises(WentWrong) as caught:
            tiny.fine_tune(settings, made=model, on_progress=progress, ranks=Side(rank, meeting))
        return caught.value

    with ThreadPoolExecutor(2) as pool:
        one, other = (error.kept for error in pool.map(gone_wrong, (0, 1)))
    assert one is not None and other is not None and one.best_step == other.best_step == 20
    assert one.holdout_loss == other.holdout_loss and tiny.same_adapter(one.best, other.best)


def test_memory_of_a_cpu_that_runs_out_is_told_and_not_killed_for() -> None:
    """A worker's own bound, around a model that takes a MiB a token: half the rows fit."""
    model = tiny.adapted()

    def hungry(module: Any, arguments: Any, known: Any) -> None:
        torch.empty(known["input_ids"].numel() << 18)

    model.get_base_model().model.register_forward_pre_hook(hungry, with_kwargs=True)
    settings = tiny.config(max_steps=1, packing="off", gradient_checkpointing=False)
    said: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound_growth(400 << 20)
    try:
        tiny.fine_tune(settings, made=model, on_notice=lambda level, text: said.append(text))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert any("4 rows go through the model at once" in text for text in said)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Triton Error [CUDA]: out of memory",
        "std::bad_alloc",
    ],
)
def test_memory_that_ran_out_below_torch_is_known_by_its_words(text: str) -> None:
    assert probe.ran_out(RuntimeError(text)) and not probe.ran_out(RuntimeError("a shape does not fit"))


def test_a_probe_of_packing_that_memory_does_not_hold_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "WORTH_ON_CPU", 0.0)
    said: list[str] = []
    model = narrow(70)
    tiny.fine_tune(tiny.config(max_steps=1), made=model, on_notice=lambda level, text: said.append(text))
    assert any("memory does not hold the rows" in text for text in said)


def test_beside_one_long_row_many_short_ones_are_not_padded_to_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = (200, *[4] * 60)
    tokens = sum(lengths)
    spread = [0]
    causal = attention._causal

    def watched(query: torch.Tensor, *others: Any) -> torch.Tensor:
        spread.append(query.shape[0] * query.shape[2])
        return causal(query, *others)

    monkeypatch.setattr(attention, "_causal", watched)
    line = torch.randn(1, 2, tokens, 8)
    out = attention._packed(line, line, line, Borders.of(lengths), 1.0, None)
    assert out.shape == (1, tokens, 2, 8) and max(spread) <= attention.SPREAD * tokens
    even = (20,) * 22
    attention._packed(line, line, line, Borders.of(even), 1.0, None)
    assert max(spread) == tokens, "rows alike go through together"


@pytest.mark.parametrize(
    ("dtype", "width", "capability", "takes"),
    [
        (torch.bfloat16, 128, (9, 0), True),
        (torch.float16, 256, (8, 6), True),
        (torch.bfloat16, 80, (12, 0), True),
        (torch.float32, 128, (9, 0), False),
        (torch.bfloat16, 128, (7, 5), False),  # 'only supports Ampere GPUs or newer'
        (torch.bfloat16, 512, (9, 0), False),  # 'only supports head dimension at most 256'
        (torch.bfloat16, 100, (9, 0), False),  # 'head_size must be a multiple of 8'
    ],
)
def test_packed_rows_take_flash_attention_where_it_has_a_kernel(
    dtype: torch.dtype, width: int, capability: tuple[int, int], takes: bool
) -> None:
    assert attention._flash(dtype, width, capability) is takes
